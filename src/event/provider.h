/* SPDX-License-Identifier: Apache-2.0 */
/* provider: what the JSON of several providers has in common: usage, errors, end markers, request bodies. */
#ifndef CHATSTREAM_EVENT_PROVIDER_H
#define CHATSTREAM_EVENT_PROVIDER_H

#include "event/decoder.h"

/* Is the data, apart from white space, [DONE]? */
int cs_provider_is_done_mark(const char *data, size_t len);

/* The member, or NULL when it is absent or null. */
json_object *cs_provider_member(json_object *object, const char *key);
/* Null, "", {} or []: many providers fill every chunk with such members, and they say nothing. */
int cs_provider_is_void(json_object *value);

/* Notes the token counts of a usage object, under OpenAI's or Anthropic's names. */
void cs_provider_usage(cs_decoder_t *decoder, json_object *usage);
/* Notes a finish reason; anything but a string is none. */
void cs_provider_finish_reason(cs_decoder_t *decoder, json_object *reason);
/* Notes a failure; `error` is an object, a string or NULL. Nothing of its text is kept, only what kind it is. */
void cs_provider_failure(cs_decoder_t *decoder, json_object *error);

/* `,"key":"value"`, the comma only when the object has members already; nothing for NULL. */
apr_status_t cs_provider_put_string(cs_buf_t *out, const char *key, const char *value);
/* The module's own request object, for dialects without a provider behind them. */
apr_status_t cs_provider_build_plain(const cs_question_t *question, cs_buf_t *out);
/* The elements of a JSON array's text, without its brackets. APR_EINVAL when it is none. */
apr_status_t cs_provider_array_inside(const char *array, const char **inside, size_t *len);

#endif
