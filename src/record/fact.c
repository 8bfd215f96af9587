/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fact: as bytes.
 *
 *   kind (1)  then members, each once, in ascending order of (class, number), nothing after the last
 *
 *   member:   class (1)  number (1)  length (4)  value
 *   TEXT      the place in CS_FACT_TEXTS, UTF-8
 *   NUMBER    the place in CS_FACT_NUMBERS, 8 bytes
 *   LINK      number 0: seq (8) ts (8) salt (16) identity (32) prev_hash (32) hash (32)
 *
 * The order makes one encoding for each fact, and a member that is there twice an error.
 */
#include "fact.h"

#include <string.h>

#include "bytes.h"

enum { CLASS_TEXT = 1, CLASS_NUMBER, CLASS_LINK };
enum { MEMBER_HEAD = 6, NUMBER_LEN = 8, SALT_LEN = 16, HASH_LEN = 32, LINK_LEN = 16 + SALT_LEN + 3 * HASH_LEN };

static const char *const text_names[] = {
#define X(name, text) text,
    CS_FACT_TEXTS(X)
#undef X
};

static const char *const number_names[] = {
#define X(name, text) text,
    CS_FACT_NUMBERS(X)
#undef X
};

const char *cs_fact_kind_name(cs_fact_kind_e kind)
{
    switch (kind) {
    case CS_FACT_OPEN:
        return "open";
    case CS_FACT_CLOSE:
        return "close";
    case CS_FACT_INCIDENT:
        return "incident";
    }
    return "unknown";
}

const char *cs_fact_text_name(int text)
{
    return text >= 0 && text < CS_TXT_COUNT ? text_names[text] : "unknown";
}

const char *cs_fact_number_name(int number)
{
    return number >= 0 && number < CS_NUM_COUNT ? number_names[number] : "unknown";
}

void cs_fact_init(cs_fact_t *fact, cs_fact_kind_e kind)
{
    memset(fact, 0, sizeof(*fact));
    fact->kind = kind;
    for (int i = 0; i < CS_NUM_COUNT; i++) {
        fact->number[i] = CS_NUM_NONE;
    }
}

void cs_fact_set(cs_fact_t *fact, int text, const char *value)
{
    fact->text[text].data = value;
    fact->text[text].len = value ? strlen(value) : 0;
}

static int is_kind(int kind)
{
    return kind >= CS_FACT_OPEN && kind <= CS_FACT_INCIDENT;
}

/*
 * What people write may hold U+0000, and the database deals with it. All else becomes a C string on its way, and what is hashed
 * must be what is stored.
 */
static int text_is_valid(int text, const char *data, size_t len)
{
    return cs_utf8_valid(data, len) && (text == CS_TXT_MESSAGE || text == CS_TXT_ANSWER || !memchr(data, '\0', len));
}

static int link_is_valid(const cs_link_t *link)
{
    char bytes[HASH_LEN];

    return link->ts >= 0 && get_hex(bytes, link->salt, SALT_LEN) && get_hex(bytes, link->identity, HASH_LEN)
           && get_hex(bytes, link->prev_hash, HASH_LEN) && get_hex(bytes, link->hash, HASH_LEN);
}

static char *put_head(char *p, int class, int number, size_t len)
{
    p[0] = (char)class;
    p[1] = (char)number;
    put_le(p + 2, len, 4);
    return p + MEMBER_HEAD;
}

static char *put_link(char *p, const cs_link_t *link)
{
    p = put_head(p, CLASS_LINK, 0, LINK_LEN);
    put_le(p, link->seq, 8);
    put_le(p + 8, (uint64_t)link->ts, 8);
    p += 16;
    get_hex(p, link->salt, SALT_LEN);
    p += SALT_LEN;
    get_hex(p, link->identity, HASH_LEN);
    p += HASH_LEN;
    get_hex(p, link->prev_hash, HASH_LEN);
    p += HASH_LEN;
    get_hex(p, link->hash, HASH_LEN);
    return p + HASH_LEN;
}

apr_status_t cs_fact_encode(const cs_fact_t *fact, cs_buf_t *out)
{
    size_t size = 1;
    apr_status_t rv;
    char *p;

    if (!is_kind((int)fact->kind) || (fact->link.seq && !link_is_valid(&fact->link))) {
        return APR_EINVAL;
    }
    for (int i = 0; i < CS_TXT_COUNT; i++) {
        const cs_text_t *text = &fact->text[i];

        if (text->data) {
            if (text->len > CS_FACT_MAX - size || !text_is_valid(i, text->data, text->len)) {
                return APR_EINVAL;
            }
            size += MEMBER_HEAD + text->len;
        }
    }
    for (int i = 0; i < CS_NUM_COUNT; i++) {
        size += fact->number[i] == CS_NUM_NONE ? 0 : MEMBER_HEAD + NUMBER_LEN;
    }
    size += fact->link.seq ? MEMBER_HEAD + LINK_LEN : 0;
    if (size > CS_FACT_MAX) {
        return APR_EINVAL;
    }
    if ((rv = cs_buf_reserve(out, size)) != APR_SUCCESS) {
        return rv;
    }
    p = out->data + out->len;
    *p++ = (char)fact->kind;
    for (int i = 0; i < CS_TXT_COUNT; i++) {
        const cs_text_t *text = &fact->text[i];

        if (text->data) {
            p = put_head(p, CLASS_TEXT, i, text->len);
            memcpy(p, text->data, text->len);
            p += text->len;
        }
    }
    for (int i = 0; i < CS_NUM_COUNT; i++) {
        if (fact->number[i] != CS_NUM_NONE) {
            p = put_head(p, CLASS_NUMBER, i, NUMBER_LEN);
            put_le(p, (uint64_t)fact->number[i], NUMBER_LEN);
            p += NUMBER_LEN;
        }
    }
    if (fact->link.seq) {
        put_link(p, &fact->link);
    }
    out->len += size;
    return APR_SUCCESS;
}

static apr_status_t get_link(cs_link_t *link, const char *p, size_t len)
{
    if (len != LINK_LEN) {
        return APR_EINVAL;
    }
    link->seq = get_le(p, 8);
    link->ts = (apr_time_t)get_le(p + 8, 8);
    p += 16;
    put_hex(link->salt, p, SALT_LEN);
    p += SALT_LEN;
    put_hex(link->identity, p, HASH_LEN);
    p += HASH_LEN;
    put_hex(link->prev_hash, p, HASH_LEN);
    p += HASH_LEN;
    put_hex(link->hash, p, HASH_LEN);
    return link->seq && link->ts >= 0 ? APR_SUCCESS : APR_EINVAL;
}

static apr_status_t get_member(cs_fact_t *fact, int class, int number, const char *p, size_t len)
{
    switch (class) {
    case CLASS_TEXT:
        if (number < CS_TXT_COUNT) {
            if (!text_is_valid(number, p, len)) {
                return APR_EINVAL;
            }
            fact->text[number].data = p;
            fact->text[number].len = len;
        }
        return APR_SUCCESS;
    case CLASS_NUMBER:
        if (number < CS_NUM_COUNT) {
            if (len != NUMBER_LEN) {
                return APR_EINVAL;
            }
            fact->number[number] = (int64_t)get_le(p, NUMBER_LEN);
            /* Absent has one encoding: no member. */
            return fact->number[number] == CS_NUM_NONE ? APR_EINVAL : APR_SUCCESS;
        }
        return APR_SUCCESS;
    case CLASS_LINK:
        return number == 0 ? get_link(&fact->link, p, len) : APR_SUCCESS;
    default:
        return class > CLASS_LINK ? APR_SUCCESS : APR_EINVAL;
    }
}

apr_status_t cs_fact_decode(cs_fact_t *fact, const char *bytes, size_t len)
{
    const char *p = bytes, *end = bytes + len;
    int last = -1;

    cs_fact_init(fact, CS_FACT_OPEN);
    if (len == 0 || len > CS_FACT_MAX || !is_kind((unsigned char)*p)) {
        return APR_EINVAL;
    }
    fact->kind = (cs_fact_kind_e)*p++;
    while (p < end) {
        int class, number;
        size_t size;

        if (end - p < MEMBER_HEAD) {
            return APR_EINVAL;
        }
        class = (unsigned char)p[0];
        number = (unsigned char)p[1];
        size = get_le(p + 2, 4);
        p += MEMBER_HEAD;
        if ((class << 8 | number) <= last || size > (size_t)(end - p)
            || get_member(fact, class, number, p, size) != APR_SUCCESS) {
            return APR_EINVAL;
        }
        last = class << 8 | number;
        p += size;
    }
    return APR_SUCCESS;
}
