# SPDX-License-Identifier: MIT
#
# Reads what a stage of tests printed and prints "passed failed skipped". The stage's own sum is its last line. One that
# has none, or that ends badly (status is not 0) without saying what failed, counts as one failure.

/^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { passed = $1; failed = $3; skipped = $5 }
END { print passed + 0, failed + (status != 0 && !failed), skipped + 0 }
