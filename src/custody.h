/* SPDX-License-Identifier: MIT */
/* Custodians: threads that keep one open file each for a held fsync.  See custody.c. */
#ifndef TA_CUSTODY_H
#define TA_CUSTODY_H

#include "internal.h"

TA_HIDDEN int ta_custody_begin(struct ta_operation *operation, int fd, int second_fd);
TA_HIDDEN void ta_custody_release(struct ta_custodian *custodian);
TA_HIDDEN void ta_custody_dismiss(struct ta_custodian *custodian);

#endif
