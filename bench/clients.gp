# SPDX-License-Identifier: MIT
#
# The picture of bench/clients: for each case of its CSV file the ratios to the system's libaio, with the middle half of
# the rounds, on a logarithmic scale. Requests a second are better on the right of 1, latency on the left. bench/clients
# sets the variables results and picture.

set terminal pngcairo size 1000,1500 font "sans,10" noenhanced
set output picture
set datafile separator ","
set datafile missing ""

set title "fio on trueaio as a ratio to fio on the system's libaio"
set key outside bottom center horizontal
set yrange [*:*] reverse
set ytics scale 0
set logscale x 2
set xrange [1.0/32:32]
set xtics ("1/32" 1.0/32, "1/16" 1.0/16, "1/8" 1.0/8, "1/4" 1.0/4, "1/2" 1.0/2, "1" 1, "2" 2, "4" 4, "8" 8, "16" 16, \
	"32" 32)
set grid xtics linecolor "#dddddd"
set arrow from 1, graph 0 to 1, graph 1 nohead linecolor "#444444"

plot results skip 1 using 8:($0 - 0.15):9:10:ytic(sprintf("%s %s %s %s %s", strcol(1), strcol(2), strcol(3), strcol(4), strcol(5))) \
		with xerrorbars pointtype 7 linecolor "#3377bb" title "requests a second", \
	"" skip 1 using 13:($0 + 0.15):14:15 with xerrorbars pointtype 6 linecolor "#ee7733" title "99th percentile of latency"
