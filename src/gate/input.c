/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "checks.h"

/* What a page sends for a field that only looks empty: U+00A0, U+2000 to U+200B, U+3000, U+FEFF. Length in bytes; 0: none. */
static size_t invisible(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    if (at[0] == 0xC2 && at[1] == 0xA0) {
        return 2;
    }
    if ((at[0] == 0xE2 && at[1] == 0x80 && at[2] >= 0x80 && at[2] <= 0x8B)
        || (at[0] == 0xE3 && at[1] == 0x80 && at[2] == 0x80) || (at[0] == 0xEF && at[1] == 0xBB && at[2] == 0xBF)) {
        return 3;
    }
    return 0;
}

static int is_blank(const char *text)
{
    size_t len = 1;

    while (*text && len) {
        len = strchr(" \t\n\v\f\r", *text) ? 1 : invisible(text);
        text += len;
    }
    return !*text;
}

int cs_check_input(cs_case_t *asked)
{
    if (asked->unreadable->status) {
        asked->refusal = *asked->unreadable;
        return 0;
    }
    if (!asked->message || is_blank(asked->message)) {
        return cs_check_refuse(asked, 400, "bad_request", "The parameter message is missing or blank.", 0);
    }
    return strlen(asked->message) <= asked->max_message
           || cs_check_refuse(asked, 413, "too_large", "The message is too long.", 0);
}
