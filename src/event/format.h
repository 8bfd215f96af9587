/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format: the rows behind cs_format_find. A new format is one file format_<name>.c and one word at the end of
 * CS_FORMATS.
 */
#ifndef CHATSTREAM_EVENT_FORMAT_H
#define CHATSTREAM_EVENT_FORMAT_H

#include "chatstream/event.h"

/* Only ever appended to: shared memory holds the position, and lives on while a newer module is loaded. */
#define CS_FORMATS(X) X(native) X(raw)

#define CS_FORMAT_DECLARE(name) extern const cs_format_t cs_format_##name;
CS_FORMATS(CS_FORMAT_DECLARE)

/* "id: <stream_id>:<seq>\n" */
apr_status_t cs_format_put_id(cs_buf_t *out, const cs_stream_info_t *info, uint64_t seq);
/* The JSON objects that several formats share, without a line end. */
apr_status_t cs_format_put_gap(cs_buf_t *out, uint64_t from, uint64_t to);
apr_status_t cs_format_put_error(cs_buf_t *out, const cs_ending_t *ending);
/* `"finish_reason":…,"usage":…,"metrics":{…}` as it stands in complete events and documents. */
apr_status_t cs_format_put_outcome(cs_buf_t *out, const cs_ending_t *ending);
/* "retry: 1000" and a blank line. */
apr_status_t cs_format_put_retry(cs_buf_t *out);

#endif
