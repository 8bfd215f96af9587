/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An audit row on its way out of the database: from the columns of a statement, and to JSON. Every statement that gives whole rows
 * selects the columns in the order of CS_AUDIT_COLUMNS. Any thread; nothing is kept.
 */
#ifndef CS_RECORD_AUDIT_ROW_H
#define CS_RECORD_AUDIT_ROW_H

#include "chain.h"

/* id, chain, seq, ts, event, stream_id, user_key, user_email, ip, query_hash, detail, salt, identity_hash, prev_hash, hash */
#define CS_AUDIT_COLUMNS 15

/*
 * `row` borrows from `columns`. `seq` and `id` as the database has them: whoever changes the table may write what no uint64_t holds.
 */
void cs_audit_row_read(const char *const *columns, cs_audit_row_t *row, int64_t *id, int64_t *seq);

/*
 * One JSON object on one line, `detail` as the JSON it is (as a string when it is none). Texts are repaired where they are not
 * UTF-8. Errors as cs_buf_append.
 */
apr_status_t cs_audit_row_json(cs_buf_t *out, int64_t id, const cs_audit_row_t *row);

/* `"name":"text"` or `"name":null`, with a comma before it unless it is the first of its object. For whoever writes such documents. */
apr_status_t cs_audit_json_text(cs_buf_t *out, const char *name, const char *text);
apr_status_t cs_audit_json_int(cs_buf_t *out, const char *name, const char *digits);

#endif
