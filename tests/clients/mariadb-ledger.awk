# SPDX-License-Identifier: MIT
#
# Transactions of one writer, as statements (as=sql), or the rows that they leave behind (as=rows), numbers "from" to
# "to". Each inserts three rows, changes the three of the transaction seven before it and one row in another table; so
# it can be seen of each part whether all of it is there. Needs writer, from, to, as; "flush" has the log flushed
# after each commit.

BEGIN {
	# Text that nothing compresses, from which each row takes a piece.
	random = 12345
	while (length(text) < 65536) {
		random = (random * 16807) % 2147483647
		text = text sprintf("%08x", random)
	}
	for (number = from; number <= to; number++)
		if (as == "sql")
			print_statements(number)
		else
			print_rows(number)
}

# Up to 3 KiB, and now and then more than fits in a page.
function content(number, part,    place, bytes) {
	place = number * 7919 + part * 104729 + writer * 1299709
	bytes = (number + part) % 61 ? place % 3000 : 20000 + place % 20000
	return writer "." number "." part "." substr(text, 1 + place % 25000, bytes)
}

function print_statements(number,    part) {
	print "START TRANSACTION;"
	for (part = 1; part <= 3; part++)
		printf "INSERT INTO ledger.entries VALUES (%d, %d, %d, 0, '%s');\n", writer, number, part, content(number, part)
	printf "UPDATE ledger.entries SET version = version + 1 WHERE writer = %d AND number = %d;\n", writer, number - 7
	printf "UPDATE ledger.latest SET number = %d WHERE writer = %d;\n", number, writer
	print "COMMIT;"
	if (flush)
		print "FLUSH LOCAL ENGINE LOGS;"
	printf "SELECT %d;\n", number
}

function print_rows(number,    part) {
	for (part = 1; part <= 3; part++)
		printf "%d\t%d\t%d\t%d\t%s\n", writer, number, part, number + 7 <= to, content(number, part)
}
