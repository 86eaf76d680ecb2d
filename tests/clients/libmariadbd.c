/* SPDX-License-Identifier: MIT */
/*
 * A program with a MariaDB server inside: libmariadbd FILE... -- SERVER-OPTION...
 *
 * Each FILE holds statements, which a thread of its own carries out; what they return goes to
 * FILE.out, a line for each row, as soon as the statement has ended.  The first statement that
 * fails ends the program.  Otherwise it shuts the server down and returns from main.
 */
#include <mysql.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 16

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "libmariadbd: %s: %s\n", what, why);
	exit(1);
}

static void print_rows(MYSQL *connection, FILE *output)
{
	MYSQL_RES *result = mysql_use_result(connection);
	unsigned i, columns;
	MYSQL_ROW row;

	if (!result)
		return;
	columns = mysql_num_fields(result);
	while ((row = mysql_fetch_row(result)) != NULL)
		for (i = 0; i < columns; i++)
			fprintf(output, "%s%c", row[i] ? row[i] : "NULL",
				i + 1 < columns ? '\t' : '\n');
	mysql_free_result(result);
	fflush(output);
}

/* Statements end with a semicolon, wherever it stands. */
static void execute(MYSQL *connection, FILE *input, FILE *output)
{
	char *statement = NULL;
	size_t size = 0;
	ssize_t length;

	while ((length = getdelim(&statement, &size, ';', input)) > 0) {
		if (statement[strspn(statement, " \t\n")] == '\0')
			continue;
		if (mysql_real_query(connection, statement, (unsigned long)length - 1))
			fail(statement, mysql_error(connection));
		print_rows(connection, output);
		if (mysql_errno(connection))
			fail(statement, mysql_error(connection));
	}
	free(statement);
}

static void *serve(void *argument)
{
	const char *name = argument;
	MYSQL *connection;
	char *output_name;
	FILE *input, *output;

	if (asprintf(&output_name, "%s.out", name) < 0)
		fail(name, "no memory");
	input = fopen(name, "r");
	output = fopen(output_name, "w");
	if (!input || !output)
		fail(name, "cannot be opened");
	mysql_thread_init();
	connection = mysql_init(NULL);
	mysql_options(connection, MYSQL_OPT_USE_EMBEDDED_CONNECTION, NULL);
	if (!mysql_real_connect(connection, NULL, "root", NULL, NULL, 0, NULL, 0))
		fail("connect", mysql_error(connection));
	execute(connection, input, output);
	mysql_close(connection);
	mysql_thread_end();
	fclose(input);
	fclose(output);
	free(output_name);
	return NULL;
}

int main(int argc, char **argv)
{
	static char *groups[] = { "embedded", NULL };
	pthread_t threads[FILES_MAX];
	int count = 0, i;

	while (1 + count < argc && strcmp(argv[1 + count], "--") != 0)
		count++;
	if (count == 0 || count > FILES_MAX || 1 + count == argc)
		fail("usage", "libmariadbd FILE... -- SERVER-OPTION...");
	/* What stands for the program's name is skipped: here "--". */
	if (mysql_server_init(argc - 1 - count, argv + 1 + count, groups))
		fail("server", "does not start");
	for (i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, serve, argv[1 + i]))
			fail("thread", "cannot be started");
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	mysql_server_end();
	return 0;
}
