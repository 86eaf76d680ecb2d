# SPDX-License-Identifier: MIT
#
# A bar for each row of results.tsv: trueaio's figure as a ratio to the system's libaio, from 1, on
# a logarithmic scale (half and double are equally long). Blue is better than the system's library
# and orange is worse, whichever direction is the better one; the black mark is the aim. bench/run
# sets the variables results and picture; bench/report another terminal, too.

if (!exists("terminal_of_picture")) terminal_of_picture = 'pngcairo size 1000,1000 font "sans,11" noenhanced'
eval "set terminal ".terminal_of_picture
set output picture
set datafile separator "\t"
set datafile missing "-"

stats results using 0 skip 1 nooutput
set title "trueaio as a ratio to the system's libaio"
set key below samplen 1.5
set yrange [STATS_records - 0.3:-0.7]
set ytics scale 0
set logscale x 2
set xrange [1.0/512:64]
set xtics ("1/128" 1.0/128, "1/32" 1.0/32, "1/8" 1.0/8, "1/4" 1.0/4, "1/2" 1.0/2, "1" 1, \
	"2" 2, "4" 4, "8" 8, "32" 32)
set grid xtics linecolor "#dddddd"
set arrow from 1, graph 0 to 1, graph 1 nohead linecolor "#444444"
set style fill solid noborder

blue = 0x88bbee
orange = 0xee7733
is_better(ratio) = strcol(5) eq "lower" ? ratio < 1 : ratio > 1
remark(verdict) = verdict[1:12] eq "not measured" ? "not measured" : ""

plot results skip 1 using (1.1):0:(remark(strcol(13))):ytic(3) with labels left notitle, \
	"" skip 1 using (1):0:(1):8:($0 - 0.33):($0 + 0.33):(is_better($8) ? blue : orange) \
		with boxxyerror linecolor rgb variable notitle, \
	"" skip 1 using 8:0:9:10 with xerrorbars pointtype 0 linecolor "#444444" \
		title "middle half of the rounds", \
	"" skip 1 using 12:($0 - 0.42):(0):(0.84) \
		with vectors nohead linewidth 3 linecolor "black" title "aim", \
	"" skip 1 using (44):0:(strcol(8) eq "-" ? "" : strcol(8)) with labels notitle, \
	keyentry with boxes linecolor rgb blue title "better", \
	keyentry with boxes linecolor rgb orange title "worse"
