# SPDX-License-Identifier: MIT
#
# Reads the output of one test program and prints "passed failed skipped".
#
# Understands Check's summary ("100%: Checks: 12, Failures: 0, Errors: 0") and TAP. A skipped test of
# Check's is a passed one for Check; it says "SKIP: reason" itself. A program that ends badly (status is not
# 0) or says nothing countable has failed, whatever else it printed: it may have died half-way.

/^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+$/ {
	gsub(/[^0-9 ]/, "")
	passed += $2 - $3 - $4
	failed += $3 + $4
	summaries++
}

/^SKIP: / { said_skip++ }

/^1\.\.[0-9]+/ { planned = substr($1, 4) + 0; summaries++ }
/^ok / { if (/ # skip/) skipped++; else passed++; tap++ }
/^not ok / { failed++; tap++ }

END {
	skipped += said_skip
	passed -= said_skip
	if (tap < planned)
		failed += planned - tap
	if (!failed && (status != 0 || !summaries || passed < 0))
		failed++
	print (passed < 0 ? 0 : passed), failed + 0, skipped + 0
}
