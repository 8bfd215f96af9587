/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chain's canonical text, against answers of an independent program:
 *
 *   perl -MDigest::SHA=sha256_hex,hmac_sha256_hex -e 'sub m_{join"",map{defined?length($_).":$_":"-"}@_}
 *     my $i=sha256_hex(m_("0f1e2d3c4b5a69788796a5b4c3d2e1f0","user-1","a\@b.example",undef,"abc"));print "$i\n";
 *     my $h=sha256_hex(m_("0"x64,"0190a5c4-7e1b-7abc-8def-0123456789ab",1,"2026-02-17T10:00:00.000000Z","stream_open",
 *                         "s-1",q({"anchors":[]}),$i));print "$h\n";
 *     my $e=sha256_hex(m_((undef)x5));print "$e\n";
 *     print sha256_hex(m_($h,"0190a5c4-7e1b-7abc-8def-0123456789ab",2,"2026-02-17T10:00:00.123456Z","denied",undef,"",$e)),
 *           "\n", sha256_hex("hello"), "\n", hmac_sha256_hex("hello","key"), "\n";'
 */
#include "record/chain_link.h"
#include "record/crc32c.h"
#include "tap.h"

#define CHAIN     "0190a5c4-7e1b-7abc-8def-0123456789ab"
#define IDENTITY  "a728da256d98c4b0e945b14970303dbc4b6927f0d5a6b413058301ee0afabc03"
#define HASH      "74e55be6404238b40083541f1c814e78976f759d6daa39d245c1f86ab333ca9e"
#define IDENTITY2 "73be087e93080f9e436892b7d182df66394bc79dbf5df119d9357df61b1ebbfb"
#define HASH2     "82b4a8e0582bbebd0d135532871514db93341d05d640db9087ae720b4634bb36"
#define AT        APR_INT64_C(1771322400000000)

static void test_known_answers(void)
{
    cs_audit_row_t row = {.chain = CHAIN,
                          .seq = 1,
                          .ts = "2026-02-17T10:00:00.000000Z",
                          .event = "stream_open",
                          .stream_id = "s-1",
                          .user_key = "user-1",
                          .user_email = "a@b.example",
                          .query_hash = "abc",
                          .detail = "{\"anchors\":[]}",
                          .salt = "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
                          .prev_hash = CS_CHAIN_GENESIS};
    char out[65];

    cs_chain_identity(out, &row);
    is_str(out, IDENTITY, "identity");
    row.identity = IDENTITY;
    cs_chain_hash(out, &row);
    is_str(out, HASH, "hash of the first row");
    /* Erased: the identity stays, and the row still verifies. */
    row.salt = row.user_key = row.user_email = row.query_hash = NULL;
    cs_chain_hash(out, &row);
    is_str(out, HASH, "erasing the person leaves the hash");
    cs_chain_identity(out, &row);
    is_str(out, IDENTITY2, "identity of nothing");
    row = (cs_audit_row_t){.chain = CHAIN,
                           .seq = 2,
                           .ts = "2026-02-17T10:00:00.123456Z",
                           .event = "denied",
                           .detail = "",
                           .identity = IDENTITY2,
                           .prev_hash = HASH};
    cs_chain_hash(out, &row);
    is_str(out, HASH2, "NULL and an empty text are different");
    cs_query_hash(out, NULL, 0, "hello", 5);
    is_str(out, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "SHA-256 of a query");
    cs_query_hash(out, "key", 3, "hello", 5);
    is_str(out, "9307b3b915efb5171ff14d8cb55fbcc798c6c0ef1456d66ded1a6aa723a58b7b", "HMAC-SHA-256 of a query");
    is_int(cs_crc32c("123456789", 9), 0xe3069283, "CRC-32C, the check value of RFC 3720's polynomial");
}

static void test_ts(void)
{
    char ts[CS_CHAIN_TS_LEN + 1];

    cs_chain_ts(ts, AT);
    is_str(ts, "2026-02-17T10:00:00.000000Z", "a time stamp");
    cs_chain_ts(ts, AT + 987654);
    is_str(ts, "2026-02-17T10:00:00.987654Z", "with microseconds");
    cs_chain_ts(ts, -5);
    is_str(ts, "1970-01-01T00:00:00.000000Z", "never before there was time");
}

/* What the journal computes from a fact is what a verifier computes from the row. */
static void test_link(void)
{
    cs_fact_t fact;
    cs_tip_t tip;
    char ts[CS_CHAIN_TS_LEN + 1], out[65], salt[33];

    cs_fact_init(&fact, CS_FACT_OPEN);
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_open");
    cs_fact_set(&fact, CS_TXT_STREAM_ID, "s-1");
    cs_fact_set(&fact, CS_TXT_USER_KEY, "user-1");
    fact.text[CS_TXT_IP] = (cs_text_t){"192.0.2.1 and more", 9};
    cs_tip_init(&tip);
    is_int(cs_chain_link(&fact.link, CHAIN, &tip, &fact, AT), APR_SUCCESS, "a link");
    cs_chain_ts(ts, fact.link.ts);
    cs_audit_row_t row = {.chain = CHAIN,
                          .seq = 1,
                          .ts = ts,
                          .event = "stream_open",
                          .stream_id = "s-1",
                          .user_key = "user-1",
                          .ip = "192.0.2.1",
                          .salt = fact.link.salt,
                          .identity = fact.link.identity,
                          .prev_hash = CS_CHAIN_GENESIS};

    cs_chain_identity(out, &row);
    is_str(fact.link.identity, out, "has the row's identity");
    cs_chain_hash(out, &row);
    is_str(fact.link.hash, out, "and the row's hash");
    ok(cs_chain_link_holds(CHAIN, &fact), "it holds");
    cs_tip_of(&tip, &fact.link);
    cs_chain_link(&fact.link, CHAIN, &tip, &fact, AT - 1);
    ok(fact.link.seq == 2 && fact.link.ts == AT && !strcmp(fact.link.prev_hash, tip.hash),
       "the next follows it, also when the clock went back");
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_opem");
    ok(!cs_chain_link_holds(CHAIN, &fact), "one changed letter breaks it");
    cs_chain_salt(salt);
    ok(strlen(salt) == 32 && strcmp(salt, fact.link.salt) != 0, "each salt is another");
}

int main(void)
{
    test_known_answers();
    test_ts();
    test_link();
    return done_testing();
}
