/* SPDX-License-Identifier: MIT */
/*
 * The progress bar: one line on a terminal, rewritten a few times a second.
 *
 *	 43% [=========>            ] 1.2 GiB of 2.7 GiB, 512.0 MiB/s, 0:03 left
 *
 * Rate and time left are those of the whole run, which is what stays meaningful when the page cache
 * takes the first gigabyte at once and the disk the rest.  The total is what was found before the
 * start: files may grow meanwhile, so everything is clipped to it.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
	INTERVAL_MS = 200,
	COLUMNS_DEFAULT = 80,
	BAR_MAX = 50,
	BAR_MIN = 10,
};

static bool active;
static bool visible;
static off_t total;
static off_t moved;
static long long started_ms;
static long long shown_ms;

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void progress_begin(off_t total_bytes)
{
	active = true;
	total = total_bytes;
	started_ms = now_ms();
}

void progress_add(off_t bytes)
{
	moved += bytes;
	if (moved > total)
		moved = total;
}

/* How long a waiter may sleep before the bar wants to be drawn again; null: as long as it likes. */
struct timespec *progress_interval(void)
{
	static struct timespec interval = { .tv_nsec = INTERVAL_MS * 1000000L };

	return active ? &interval : NULL;
}

static void format_bytes(char *text, size_t size, double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	size_t unit = 0;

	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, size, "%.*f %s", unit ? 1 : 0, bytes, units[unit]);
}

static void format_seconds(char *text, size_t size, double seconds)
{
	long long whole = (long long)(seconds + 0.5);

	if (whole >= 3600)
		snprintf(text, size, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
			 whole % 60);
	else
		snprintf(text, size, "%lld:%02lld", whole / 60, whole % 60);
}

static int terminal_columns(void)
{
	struct winsize window;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
		return window.ws_col;
	return COLUMNS_DEFAULT;
}

static void draw(double elapsed_s, bool done)
{
	char so_far[32], whole[32], rate[32], time[32], figures[160], bar[BAR_MAX + 1];
	double bytes_per_s = elapsed_s > 0 ? (double)moved / elapsed_s : 0;
	double fraction = total > 0 ? (double)moved / (double)total : 1;

	format_bytes(so_far, sizeof(so_far), (double)moved);
	format_bytes(whole, sizeof(whole), (double)total);
	format_bytes(rate, sizeof(rate), bytes_per_s);
	if (done)
		format_seconds(time, sizeof(time), elapsed_s);
	else if (bytes_per_s > 0)
		format_seconds(time, sizeof(time), (double)(total - moved) / bytes_per_s);
	else
		strcpy(time, "?");
	snprintf(figures, sizeof(figures), "%s of %s, %s/s, %s %s", so_far, whole, rate, time,
		 done ? "in all" : "left");

	/*
	 * " 43% [" and "] " take eight columns; the last column stays free, where some terminals
	 * wrap.
	 */
	int width = terminal_columns() - (int)strlen(figures) - 9;
	if (width > BAR_MAX)
		width = BAR_MAX;
	if (width >= BAR_MIN) {
		int filled = (int)(fraction * width);
		memset(bar, ' ', (size_t)width);
		memset(bar, '=', (size_t)filled);
		if (filled < width)
			bar[filled] = '>';
		bar[width] = '\0';
		fprintf(stderr, "\r%3d%% [%s] %s\033[K", (int)(fraction * 100), bar, figures);
	} else {
		fprintf(stderr, "\r%3d%% %s/s\033[K", (int)(fraction * 100), rate);
	}
	visible = true;
}

void progress_show(void)
{
	long long now = now_ms();

	if (!active || (visible && now - shown_ms < INTERVAL_MS))
		return;
	draw((double)(now - started_ms) / 1000, false);
	shown_ms = now;
}

/* Clears the line for a message; the next progress_show draws it again. */
void progress_hide(void)
{
	if (visible)
		fputs("\r\033[K", stderr);
	visible = false;
}

/* Leaves the bar as it stands at the end. */
void progress_end(void)
{
	if (!active)
		return;
	draw((double)(now_ms() - started_ms) / 1000, true);
	fputc('\n', stderr);
	active = false;
	visible = false;
}
