/* SPDX-License-Identifier: Apache-2.0 */
#include "event/dialect.h"

#define ROW(name) &cs_dialect_##name,
static const cs_dialect_t *const dialects[] = {CS_DIALECTS(ROW)};

#define NAME(name) ", " #name
static const char names[] = CS_DIALECTS(NAME);

const cs_dialect_t *cs_dialect_find(const char *name)
{
    for (size_t i = 0; i < sizeof(dialects) / sizeof(dialects[0]); i++) {
        if (strcmp(dialects[i]->name, name) == 0) {
            return dialects[i];
        }
    }
    return NULL;
}

const char *cs_dialect_names(void)
{
    return names + 2; /* the first comma */
}

const char *cs_dialect_accept(const cs_dialect_t *dialect)
{
    return dialect->accept;
}

int cs_dialect_needs_model(const cs_dialect_t *dialect)
{
    return dialect->needs_model;
}

apr_status_t cs_dialect_build_request(const cs_dialect_t *dialect, const cs_question_t *question, cs_buf_t *out)
{
    size_t before = out->len;
    apr_status_t rv = dialect->build_request(question, out);
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}
