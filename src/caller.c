/* SPDX-License-Identifier: MIT */
/*
 * Does the program reap its completions without us?
 *
 * QEMU reads the ring in memory; MariaDB calls io_getevents by its number.  Such an object imports
 * io_submit and none of the functions that take completions.  (io_queue_wait takes none.)  So the
 * object that calls io_setup is looked up by the return address, and the names that its relocations
 * refer to are read from its dynamic section.
 *
 * An object that imports neither only wraps io_setup, or has ended its function with a jump to it,
 * or has found it by dlsym.  Then all objects of the process are asked together.
 *
 * With the static library there are no imports.  But the functions that take completions are a
 * member of its archive by themselves, which is there only if somebody refers to one of them.
 */
#include "internal.h"

#include <elf.h>
#include <link.h>
#include <string.h>

struct imports {
	uintptr_t address; /* of the object that is meant; 0: all of them */
	bool submits;
	bool reaps;
};

struct object {
	uintptr_t base;
	const ElfW(Sym) * symbols;
	const char *names;
};

/* Some loaders leave the dynamic section's pointers relative to the object. */
static uintptr_t absolute(const struct object *object, ElfW(Addr) value)
{
	return value < object->base ? object->base + value : value;
}

static void note_symbol(struct imports *imports, const struct object *object, size_t index)
{
	static const char *const reaping[] = { "io_getevents", "io_pgetevents", "io_queue_run" };
	const ElfW(Sym) *symbol = &object->symbols[index];
	const char *name = object->names + symbol->st_name;
	size_t i;

	if (symbol->st_shndx != SHN_UNDEF)
		return;
	if (strcmp(name, "io_submit") == 0)
		imports->submits = true;
	for (i = 0; i < sizeof(reaping) / sizeof(*reaping); i++)
		if (strcmp(name, reaping[i]) == 0)
			imports->reaps = true;
}

#if __SIZEOF_POINTER__ == 8
#define symbol_index(info) ELF64_R_SYM(info)
#else
#define symbol_index(info) ELF32_R_SYM(info)
#endif

static void read_relocations(struct imports *imports, const struct object *object, uintptr_t table,
			     size_t bytes, bool with_addend)
{
	size_t entry_bytes = with_addend ? sizeof(ElfW(Rela)) : sizeof(ElfW(Rel));
	size_t offset;

	/* Both kinds begin alike. */
	for (offset = 0; table && offset + entry_bytes <= bytes; offset += entry_bytes)
		note_symbol(imports, object,
			    symbol_index(((const ElfW(Rel) *)(table + offset))->r_info));
}

static void read_dynamic(struct imports *imports, struct object *object, const ElfW(Dyn) * dynamic)
{
	uintptr_t plt = 0, rela = 0, rel = 0;
	size_t plt_bytes = 0, rela_bytes = 0, rel_bytes = 0;
	bool plt_with_addend = false;
	const ElfW(Dyn) * entry;

	for (entry = dynamic; entry->d_tag != DT_NULL; entry++) {
		switch (entry->d_tag) {
		case DT_SYMTAB:
			object->symbols = (const void *)absolute(object, entry->d_un.d_ptr);
			break;
		case DT_STRTAB:
			object->names = (const char *)absolute(object, entry->d_un.d_ptr);
			break;
		case DT_JMPREL:
			plt = absolute(object, entry->d_un.d_ptr);
			break;
		case DT_PLTRELSZ:
			plt_bytes = entry->d_un.d_val;
			break;
		case DT_PLTREL:
			plt_with_addend = entry->d_un.d_val == DT_RELA;
			break;
		case DT_RELA:
			rela = absolute(object, entry->d_un.d_ptr);
			break;
		case DT_RELASZ:
			rela_bytes = entry->d_un.d_val;
			break;
		case DT_REL:
			rel = absolute(object, entry->d_un.d_ptr);
			break;
		case DT_RELSZ:
			rel_bytes = entry->d_un.d_val;
			break;
		default:
			break;
		}
	}
	if (!object->symbols || !object->names)
		return;
	read_relocations(imports, object, plt, plt_bytes, plt_with_addend);
	read_relocations(imports, object, rela, rela_bytes, true);
	read_relocations(imports, object, rel, rel_bytes, false);
}

static int visit_object(struct dl_phdr_info *info, size_t size, void *argument)
{
	struct object object = { .base = info->dlpi_addr };
	const ElfW(Dyn) *dynamic = NULL;
	struct imports *imports = argument;
	bool meant = !imports->address;
	int i;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + segment->p_vaddr;

		if (segment->p_type == PT_DYNAMIC)
			dynamic = (const ElfW(Dyn) *)start;
		if (segment->p_type == PT_LOAD && imports->address >= start &&
		    imports->address < start + segment->p_memsz)
			meant = true;
	}
	if (!meant)
		return 0;
	if (dynamic)
		read_dynamic(imports, &object, dynamic);
	return imports->address != 0;
}

#ifdef TA_STATIC
/*
 * api_reap.c has another, which is not weak.  Volatile, or link-time optimization would not look.
 */
const volatile bool ta_events_are_taken_here __attribute__((weak)) = false;
#endif

bool ta_caller_reaps_by_itself(const void *return_address)
{
	struct imports imports = { .address = (uintptr_t)return_address };

	dl_iterate_phdr(visit_object, &imports);
	if (!imports.submits && !imports.reaps) {
#ifdef TA_STATIC
		return !ta_events_are_taken_here;
#else
		imports.address = 0;
		dl_iterate_phdr(visit_object, &imports);
#endif
	}
	return imports.submits && !imports.reaps;
}
