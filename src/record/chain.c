/* SPDX-License-Identifier: Apache-2.0 */
#include "chain.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "bytes.h"
#include "chain_link.h"

/* Fetching costs more than hashing a row: once, for as long as the process lives. */
static const EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

static void fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!sha256) {
        sha256 = EVP_sha256();
    }
}

static const EVP_MD *get_sha256(void)
{
    pthread_once(&sha256_once, fetch_sha256);
    return sha256;
}

static int update(EVP_MD_CTX *md, const cs_text_t *member)
{
    char length[24], *p = length + sizeof(length);
    size_t len = member->len;

    if (!member->data) {
        return EVP_DigestUpdate(md, "-", 1);
    }
    *--p = ':';
    do {
        *--p = (char)('0' + len % 10);
        len /= 10;
    } while (len);
    return EVP_DigestUpdate(md, p, (size_t)(length + sizeof(length) - p))
           && EVP_DigestUpdate(md, member->data, member->len);
}

/* An empty string when OpenSSL has no memory: never a wrong hash. */
static void digest(char out[CS_HASH_HEX + 1], const cs_text_t *members, size_t count)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int good = md && EVP_DigestInit_ex(md, get_sha256(), NULL);

    for (size_t i = 0; good && i < count; i++) {
        good = update(md, &members[i]);
    }
    if (good && EVP_DigestFinal_ex(md, hash, NULL)) {
        put_hex(out, hash, CS_HASH_HEX / 2);
    }
    else {
        *out = '\0';
    }
    EVP_MD_CTX_free(md);
}

static cs_text_t text_of(const char *str)
{
    return (cs_text_t){str, str ? strlen(str) : 0};
}

static cs_text_t decimal(char buf[24], uint64_t value)
{
    char *end = buf + 24, *p = end;

    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return (cs_text_t){p, (size_t)(end - p)};
}

void cs_chain_identity(char out[65], const cs_audit_row_t *row)
{
    cs_text_t members[] = {text_of(row->salt), text_of(row->user_key), text_of(row->user_email), text_of(row->ip),
                           text_of(row->query_hash)};

    digest(out, members, sizeof(members) / sizeof(*members));
}

void cs_chain_hash(char out[65], const cs_audit_row_t *row)
{
    char seq[24];
    cs_text_t members[] = {text_of(row->prev_hash), text_of(row->chain),   decimal(seq, row->seq),
                           text_of(row->ts),        text_of(row->event),   text_of(row->stream_id),
                           text_of(row->detail),    text_of(row->identity)};

    digest(out, members, sizeof(members) / sizeof(*members));
}

/* The same two for a fact: its texts have no NUL at the end. */
static void hash_fact(char identity[65], char hash[65], const char *chain, const cs_fact_t *fact, const cs_link_t *link)
{
    char seq[24], ts[CS_CHAIN_TS_LEN + 1];
    cs_text_t who[] = {text_of(link->salt), fact->text[CS_TXT_USER_KEY], fact->text[CS_TXT_USER_EMAIL],
                       fact->text[CS_TXT_IP], fact->text[CS_TXT_QUERY_HASH]};

    digest(identity, who, sizeof(who) / sizeof(*who));
    cs_chain_ts(ts, link->ts);
    cs_text_t row[] = {text_of(link->prev_hash),  text_of(chain),
                       decimal(seq, link->seq),   text_of(ts),
                       fact->text[CS_TXT_EVENT],  fact->text[CS_TXT_STREAM_ID],
                       fact->text[CS_TXT_DETAIL], text_of(identity)};

    digest(hash, row, sizeof(row) / sizeof(*row));
}

void cs_tip_init(cs_tip_t *tip)
{
    tip->seq = 0;
    tip->ts = 0;
    memcpy(tip->hash, CS_CHAIN_GENESIS, sizeof(tip->hash));
}

void cs_tip_of(cs_tip_t *tip, const cs_link_t *link)
{
    tip->seq = link->seq;
    tip->ts = link->ts;
    memcpy(tip->hash, link->hash, sizeof(tip->hash));
}

apr_status_t cs_chain_link(cs_link_t *link, const char *chain, const cs_tip_t *tip, const cs_fact_t *fact,
                           apr_time_t now)
{
    apr_status_t rv = cs_chain_salt(link->salt);

    link->seq = tip->seq + 1;
    link->ts = now > tip->ts ? now : tip->ts;
    memcpy(link->prev_hash, tip->hash, sizeof(link->prev_hash));
    if (rv == APR_SUCCESS) {
        hash_fact(link->identity, link->hash, chain, fact, link);
        rv = *link->identity && *link->hash ? APR_SUCCESS : APR_ENOMEM;
    }
    return rv;
}

int cs_chain_link_holds(const char *chain, const cs_fact_t *fact)
{
    char identity[65], hash[65];

    hash_fact(identity, hash, chain, fact, &fact->link);
    return !strcmp(identity, fact->link.identity) && !strcmp(hash, fact->link.hash);
}

/* The system's own bytes, not OpenSSL's generator: nothing is kept between calls that a fork could copy. */
apr_status_t cs_chain_salt(char out[33])
{
    unsigned char bytes[16];
    ssize_t got;

    do {
        got = getrandom(bytes, sizeof(bytes), 0);
    } while (got != (ssize_t)sizeof(bytes) && (got >= 0 || errno == EINTR));
    if (got < 0) {
        *out = '\0';
        return APR_FROM_OS_ERROR(errno);
    }
    put_hex(out, bytes, sizeof(bytes));
    return APR_SUCCESS;
}

void cs_chain_ts(char out[CS_CHAIN_TS_LEN + 1], apr_time_t ts)
{
    char *p;

    cs_clock_iso8601(out, ts);
    /* "….000Z" -> "….000000Z" */
    p = out + CS_ISO8601_LEN - 1;
    ts = ts < 0 ? 0 : ts;
    *p++ = (char)('0' + ts / 100 % 10);
    *p++ = (char)('0' + ts / 10 % 10);
    *p++ = (char)('0' + ts % 10);
    *p++ = 'Z';
    *p = '\0';
}

void cs_query_hash(char out[65], const char *key, size_t key_len, const char *text, size_t len)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    int good;

    if (key && key_len) {
        good = key_len <= INT32_MAX
               && HMAC(get_sha256(), key, (int)key_len, (const unsigned char *)text, len, hash, NULL) != NULL;
    }
    else {
        good = EVP_Digest(text, len, hash, NULL, get_sha256(), NULL);
    }
    if (good) {
        put_hex(out, hash, CS_HASH_HEX / 2);
    }
    else {
        *out = '\0';
    }
}
