# SPDX-License-Identifier: MIT
#
# How the times of cold reads are distributed, on either library, one and 32 in flight. bench/report sets the variables
# scratch and picture.

set terminal svg size 1000,700 font "sans,11" noenhanced
set output picture
set multiplot layout 2,2
set logscale x
set xlabel "microseconds"
set ylabel "percent of the requests within"
set yrange [0:100]
set key bottom right
set grid linecolor "#dddddd"

of(side, depth, what) = sprintf("< awk '$1 == \"%s\"' %s/distribution-%s-%d", what, scratch, side, depth)

do for [depth in "1 32"] {
	do for [what in "submit end"] {
		set title (what eq "submit" ? "in io_submit, " : "until the event, ").depth." in flight"
		plot of("system", int(depth), what) using 3:2 with lines linewidth 2 linecolor "#ee7733" title "libaio", \
			of("ours", int(depth), what) using 3:2 with lines linewidth 2 linecolor "#3377bb" title "trueaio"
	}
}
unset multiplot
