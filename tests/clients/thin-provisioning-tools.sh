# SPDX-License-Identifier: MIT
#
# thin-provisioning-tools: metadata of thin pools, caches and eras, made from text, checked, repaired and written out
# again. A context for 3934 requests, hundreds in flight, and one io_getevents that has to return all that is there.
# The same tools on the distribution's library must write the same bytes.
# packages: thin-provisioning-tools gdb
source "${BASH_SOURCE%/*}/common.bash"

# thin_xml: four devices of 7500 blocks each, no two next to one another, so that each is a mapping of its own.
thin_xml() {
	awk 'BEGIN {
		n = 7500
		printf "<superblock uuid=\"\" time=\"1\" transaction=\"1\" flags=\"0\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"%d\">\n", n * 16
		for (device = 0; device < 4; device++) {
			printf "  <device dev_id=\"%d\" mapped_blocks=\"%d\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">\n", device, n
			for (i = 0; i < n; i++)
				printf "    <single_mapping origin_block=\"%d\" data_block=\"%d\" time=\"0\"/>\n", i * 3, (device * n + i) * 2
			print "  </device>"
		}
		print "</superblock>"
	}'
}

cache_xml() {
	awk 'BEGIN {
		n = 15000
		printf "<superblock uuid=\"\" block_size=\"128\" nr_cache_blocks=\"%d\" policy=\"smq\" hint_width=\"4\">\n  <mappings>\n", n
		for (i = 0; i < n; i++)
			printf "    <mapping cache_block=\"%d\" origin_block=\"%d\" dirty=\"%s\"/>\n", i, i * 7, i % 5 ? "false" : "true"
		print "  </mappings>\n  <hints>"
		for (i = 0; i < n; i++)
			printf "    <hint cache_block=\"%d\" data=\"AAAAAA==\"/>\n", i
		print "  </hints>\n</superblock>"
	}'
}

era_xml() {
	awk 'BEGIN {
		n = 60000
		printf "<superblock uuid=\"\" block_size=\"128\" nr_blocks=\"%d\" current_era=\"10\">\n  <era_array>\n", n
		for (i = 0; i < n; i++)
			printf "    <era block=\"%d\" era=\"%d\"/>\n", i, i % 10
		print "  </era_array>\n</superblock>"
	}'
}

# restored KIND: text to metadata and back; the metadata is the same as that of the distribution's library.
restored() {
	truncate -s 24M "$1.meta" "$1.expected"
	must "$1_restore" --quiet --input "$1.xml" --output "$1.meta"
	env LD_LIBRARY_PATH="$(dirname "$system_library")" "$1_restore" --quiet --input "$1.xml" --output "$1.expected" ||
		fail "$1_restore fails on the distribution's library"
	cmp "$1.meta" "$1.expected" || fail "$1_restore writes other metadata than on the distribution's library"
	must "$1_check" "$1.meta"
	must "$1_dump" "$1.meta"
	mv output "$1.dumped"
	# Attributes of the superblock may be spelled otherwise.
	diff <(grep -v '<superblock' "$1.xml") <(grep -v '<superblock' "$1.dumped") || fail "$1_dump tells another tale"
}

# damaged KIND: random bytes in forty blocks of its metadata must be noticed.
damaged() {
	cp "$1.meta" damaged.meta
	dd if=/dev/urandom of=damaged.meta bs=4k seek=10 count=40 conv=notrunc status=none
	! on_library "$1_check" damaged.meta || fail "$1_check does not see the damage"
	[ -s output ] && ! grep -q 'io_setup\|Aborted' output || fail "$1_check has not said what is damaged"
}

for kind in thin cache era; do
	"${kind}_xml" >$kind.xml
	restored $kind
	damaged $kind
done

# The copies of the metadata that repair makes mean the same.
for kind in thin cache; do
	truncate -s 24M repaired.meta
	must ${kind}_repair --input $kind.meta --output repaired.meta
	must ${kind}_check repaired.meta
	must ${kind}_dump repaired.meta
	cmp output $kind.dumped || fail "${kind}_repair lost something"
done

must thin_ls --no-headers --format DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS thin.meta
[ "$(awk '{ print $1, $2, $3 }' output | xargs)" = "0 7500 7500 1 7500 7500 2 7500 7500 3 7500 7500" ] ||
	fail "thin_ls does not count what is mapped"
must thin_rmap --region 0..30000 thin.meta
[ "$(wc -l <output)" = 15000 ] || fail "thin_rmap does not find the blocks"

mapped_by thin_check thin.meta
ok "$(thin_check --version | head -n 1): thin, cache and era metadata, the same bytes as on the distribution's library"
