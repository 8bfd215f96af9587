/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialect: what one provider means by its frames. A new provider is one file dialect_<name>.c with one cs_dialect_t and
 * one word in CS_DIALECTS.
 */
#ifndef CHATSTREAM_EVENT_DIALECT_H
#define CHATSTREAM_EVENT_DIALECT_H

#include "event/decoder.h"

/* In alphabetical order: error messages list them so. */
#define CS_DIALECTS(X) X(openai) X(sse) X(text)

struct cs_dialect_t {
    const char *name;
    const char *accept;
    const cs_framing_t *framing;
    int needs_model;
    apr_status_t (*frame)(cs_decoder_t *decoder, const cs_frame_t *frame);
    /* After an orderly end without done: static text saying what the answer lacks, or NULL when it is whole. */
    const char *(*missing)(const cs_decoder_t *decoder);
    apr_status_t (*build_request)(const cs_question_t *question, cs_buf_t *out);
};

#define CS_DIALECT_DECLARE(name) extern const cs_dialect_t cs_dialect_##name;
CS_DIALECTS(CS_DIALECT_DECLARE)

#endif
