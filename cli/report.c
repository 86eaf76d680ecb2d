/* SPDX-License-Identifier: MIT */
/*
 * Messages to the user, on standard error: "trueaio cp: NAME: what happened: why".
 *
 * A command that goes on after an error asks at its end how many there were.
 */
#include "cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *command_name;
static unsigned error_count;

void report_as(const char *command)
{
	command_name = command;
}

static void print_message(int error, const char *format, va_list arguments)
{
	progress_hide();
	fprintf(stderr, "trueaio%s%s: ", command_name ? " " : "", command_name ? command_name : "");
	vfprintf(stderr, format, arguments);
	if (error)
		fprintf(stderr, ": %s", strerror(error));
	fputc('\n', stderr);
}

/* @error: an errno for the end of the message, or 0 where the text says it all. */
void report_error(int error, const char *format, ...)
{
	va_list arguments;

	error_count++;
	va_start(arguments, format);
	print_message(error, format, arguments);
	va_end(arguments);
}

void report_note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_message(0, format, arguments);
	va_end(arguments);
}

unsigned report_errors(void)
{
	return error_count;
}
