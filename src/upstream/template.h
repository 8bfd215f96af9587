/* SPDX-License-Identifier: Apache-2.0 */
/*
 * template: the upstream request of ChatStreamRequestTemplate. The file is JSON; in it {message}, {history}, {user},
 * {user_email}, {user_role}, {conversation_id} and {model} stand for the question's values:
 *
 *     "prompt": "{message}"            the whole string is a placeholder: the value as JSON, null when absent
 *     "prompt": "Answer: {message}"    part of a string: the value's text, nothing when absent; {history} as its JSON
 *     text
 *
 * Keys stay as they are. Values are escaped, and never looked at again for placeholders, so nothing can be injected.
 *
 * A template is compiled once, at start-up, into pieces that no one writes to afterwards: any thread may render it.
 */
#ifndef CHATSTREAM_UPSTREAM_TEMPLATE_H
#define CHATSTREAM_UPSTREAM_TEMPLATE_H

#include "chatstream/event.h"

typedef struct cs_template_t cs_template_t;

/*
 * `text` is the file's content. APR_EINVAL: it is no JSON; `error` then says what is wrong and where, in one line.
 * `*out` is freed with cs_template_destroy.
 */
apr_status_t cs_template_create(cs_template_t **out, const char *text, size_t len, char *error, size_t error_size);
void cs_template_destroy(cs_template_t *tmpl);

/*
 * Appends the request body. APR_ENOSPC when `out` is full, APR_EINVAL when the history is not JSON; `out` is then as
 * before.
 */
apr_status_t cs_template_render(const cs_template_t *tmpl, const cs_question_t *question, cs_buf_t *out);

#endif
