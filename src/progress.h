/* SPDX-License-Identifier: MIT */
/* What the assistants share with the custodians. */
#ifndef TA_PROGRESS_H
#define TA_PROGRESS_H

#include <stdint.h>

/*
 * How long to wait before scanning a pass-through ring again, when one has been waiting since then:
 * an eighth of that, 20 µs to 1 ms.
 */
__attribute__((visibility("hidden"))) int64_t ta_scan_interval_ns(int64_t since_ns);

#endif
