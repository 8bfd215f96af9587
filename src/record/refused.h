/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_RECORD_REFUSED_H
#define CS_RECORD_REFUSED_H

#include "fact.h"

/* Keeps a fact that the database refused. The system's error, when that failed too. */
apr_status_t cs_refused_append(const char *dir, const char *chain, const cs_fact_t *fact);

#endif
