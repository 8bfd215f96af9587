/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the answers say: token texts of an exact size, the question found in a request body, and the friendly reply.
 */
#ifndef UPSTREAM_TEXT_H
#define UPSTREAM_TEXT_H

#include "buf.h"
#include "params.h"

#include <stdint.h>

/* Length of the time stamp `@…19 digits…@` at the head of a stamped token. */
#define UP_STAMP_LEN 21

/* Appends the text of token number `index`: p->size bytes of words, with the time in front when p->stamp is set. */
void up_text_token(up_buf_t *out, const up_params_t *p, uint64_t index);

/* The question in a JSON body, whichever provider's shape it has; "" when there is none. The result is malloc'ed. */
char *up_text_question(const char *body, size_t len);

/* How many words a question has: the simulator's idea of prompt tokens. */
uint32_t up_text_words(const char *text);

/* The reply of `reply=echo`: a friendly sentence or two, then the question. */
void up_text_reply(up_buf_t *out, const char *question);

/* The length of the first word of text, with the white space behind it. */
size_t up_text_word(const char *text, size_t len);

#endif
