/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schema as statements, for a binary that finds no conf/sql/ where it runs. All of them may be run where everything is there.
 * Constant data; any thread.
 */
#ifndef CS_RECORD_SCHEMA_H
#define CS_RECORD_SCHEMA_H

#define CS_SCHEMA_VERSION 1

/* By cs_sql_e; each list ends with NULL. */
extern const char *const *const cs_schema[3];

#endif
