/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate: may this become a stream? An ordered list of checks (gate.c), each one file and one function that takes the clock as a
 * parameter. Knows core only, and for tokens cjose, json-c and OpenSSL: no server, so that all of it is tested without one.
 *
 * What children share (starts per user, flags) lies in shared memory made in the parent before the fork and kept over graceful
 * restarts; every function here may be called from any thread of any child. Nothing logs: what went wrong is told in words.
 *
 * Times are microseconds; `now` is cs_clock_mono() unless said otherwise. Shares are in hundredths of a percent: 10000 is all.
 */
#ifndef CHATSTREAM_GATE_H
#define CHATSTREAM_GATE_H

#include "chatstream/core.h"

typedef struct cs_gate_t cs_gate_t; /* a process's handle to what the children share */

/* ---- what children share ----------------------------------------------------------------------------------------- */

/*
 * Parent, before the fork. `rate_max`: the largest N of all rate limits; 0: there are none. `*out` is NULL on failure
 * (APR_ENOMEM or the system's errno).
 */
apr_status_t cs_gate_create(cs_gate_t **out, uint32_t rate_max);
/* Can serve limits up to `rate_max` starts: no need to make another, which would forget what was counted. */
int cs_gate_holds(const cs_gate_t *gate, uint32_t rate_max);
/* Unmaps here; the memory lives on in every child that still has it. Accepts NULL. */
void cs_gate_destroy(cs_gate_t *gate);

/* ---- rate: never more than `count` starts in any `window` -------------------------------------------------------- */

typedef struct {
    const char *group; /* limits of one group share their counts */
    const char *key;   /* who is counted */
    uint32_t count;
    apr_time_t window;
} cs_rate_rule_t;

typedef enum { CS_RATE_OK, CS_RATE_LIMITED, CS_RATE_FULL } cs_rate_e;

typedef struct {
    uint32_t remaining; /* starts that are left now */
    uint32_t reset;     /* whole seconds, rounded up, until one more is; 0: all are left */
    uint32_t stamp;     /* rate.c's: which start this was */
} cs_rate_t;

/* Counts a start, when it may be. FULL: the table has no room for somebody new whose count it could keep. */
cs_rate_e cs_rate_take(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now, cs_rate_t *rate);
/* What take would say, without counting. */
cs_rate_e cs_rate_peek(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now, cs_rate_t *rate);
/* The start that take allowed did not happen. */
void cs_rate_give_back(cs_gate_t *gate, const cs_rate_rule_t *rule, const cs_rate_t *rate);

#define CS_ADDRESS_KEY_MAX 48
/* How an address is counted: IPv4 as it is (also when mapped into IPv6), IPv6 by its /64. Text that is no address: as it is. */
void cs_rate_address_key(char out[CS_ADDRESS_KEY_MAX], const char *address);

/* ---- flags: what the flag file overrides ------------------------------------------------------------------------- */

#define CS_SHARE_ALL     10000
#define CS_FLAG_PROFILES 64 /* a file with more is refused */

typedef struct {
    int enabled; /* 0, 1; -1: not said */
    int share;   /* 0 to CS_SHARE_ALL; -1: not said */
} cs_flags_t;

/* In force for a profile, the file's general members filled in. Takes no lock. */
void cs_flags_of(cs_gate_t *gate, const char *profile, cs_flags_t *flags);

typedef enum {
    CS_FLAGS_SAME,    /* nothing to tell */
    CS_FLAGS_CHANGED, /* new values are in force in every child */
    CS_FLAGS_BROKEN,  /* the file cannot be read or understood, said once for each content: the last good state holds */
    CS_FLAGS_GONE     /* there is no file any more: nothing is overridden */
} cs_flags_look_e;

/*
 * Any process, once or twice a second: looks whether the file has changed and puts what it says in force everywhere. A file that is
 * broken or away must be so in two looks in a row: somebody may be writing it. `why`: what is wrong, in one line.
 */
cs_flags_look_e cs_flags_look(cs_gate_t *gate, const char *path, char *why, size_t size);
/* Before the first fork: the same at once, without the second look. */
cs_flags_look_e cs_flags_load(cs_gate_t *gate, const char *path, char *why, size_t size);
/* No ChatStreamFlagFile (any more). */
void cs_flags_clear(cs_gate_t *gate);
/* The file is broken and an older state holds. */
int cs_flags_are_broken(const cs_gate_t *gate);

/* ---- rollout ----------------------------------------------------------------------------------------------------- */

/*
 * Is this user among the first `share` of a profile? The same answer in every process and after every restart; whoever is in
 * at one share is in at every larger one; another profile draws anew.
 */
int cs_rollout_includes(const char *profile, const char *user, int share);

/* ---- keys and tokens (RFC 7515, 7517, 7518, 7519, 8725) ---------------------------------------------------------- */

typedef struct cs_keys_t cs_keys_t; /* a set of keys that verify; constant once made, so any thread may use it */

/*
 * One key for the algorithm `alg` (HS256 … EdDSA as the library has them): for HS* the file's bytes are the secret (a line end
 * at the very end is not part of it), for the others they are a PEM public key or certificate. `error`: what is wrong with it, in one
 * line, without a byte of it.
 */
apr_status_t cs_keys_from_file(cs_keys_t **out, const char *alg, const char *bytes, size_t len, char *error,
                               size_t size);
/* A JWK Set. Keys that are not for signatures, or of no algorithm we take, are left out; a set with none left is an error. */
apr_status_t cs_keys_from_jwks(cs_keys_t **out, const char *json, size_t len, char *error, size_t size);
unsigned cs_keys_count(const cs_keys_t *keys);
void cs_keys_destroy(cs_keys_t *keys); /* accepts NULL */
const char *cs_keys_algorithms(void);  /* "HS256, HS384, …" */

#define CS_TOKEN_MAX 16384

typedef struct {
    const char *issuer;   /* NULL: any */
    const char *audience; /* NULL: any; else it must be `aud`, or in it */
    apr_time_t leeway;
} cs_token_policy_t;

typedef struct cs_claims_t cs_claims_t; /* the payload of a token that was verified */

typedef enum {
    CS_TOKEN_GOOD,
    CS_TOKEN_BAD,
    CS_TOKEN_UNKNOWN_KEY /* its kid is in none of the sets: they may be out of date */
} cs_token_e;

/*
 * `wall_now` as of apr_time_now(). GOOD: `*claims` is the caller's, freed with cs_claims_destroy; it has a `sub` that is not empty.
 * Else `*claims` is NULL and `*why` a static text for `error_description` that repeats nothing of the token.
 */
cs_token_e cs_token_verify(const cs_keys_t *const *sets, unsigned count, const char *token, size_t len,
                           const cs_token_policy_t *policy, apr_time_t wall_now, cs_claims_t **claims,
                           const char **why);
void cs_claims_destroy(cs_claims_t *claims); /* accepts NULL */
/* Text of a top-level string, number or boolean; NULL: none, or longer than 1024. Lives as long as the claims. */
const char *cs_claims_text(cs_claims_t *claims, const char *name);
/* Calls `fn` for each of those whose name has only letters, digits, _ and -; at most 32. */
void cs_claims_each(cs_claims_t *claims, void (*fn)(void *baton, const char *name, const char *text), void *baton);
/* When the token ends, wall clock, without leeway; 0: never. */
apr_time_t cs_claims_expiry(const cs_claims_t *claims);

/* ---- a key set that is fetched ----------------------------------------------------------------------------------- */

/*
 * Holds the newest good set and knows when to fetch another; who fetches is the caller. Any thread.
 *
 *     request thread: keys = cs_jwks_acquire(jwks); verify; cs_jwks_release(jwks, keys); UNKNOWN_KEY: cs_jwks_want(jwks, now)
 *     a thread that may block: if (cs_jwks_is_due(jwks, now)) { fetch; cs_jwks_update(jwks, keys, now) }
 */
typedef struct cs_jwks_t cs_jwks_t;

apr_status_t cs_jwks_create(cs_jwks_t **out);
void cs_jwks_destroy(cs_jwks_t *jwks);                  /* nobody holds a set any more; accepts NULL */
cs_keys_t *cs_jwks_acquire(cs_jwks_t *jwks);            /* NULL: none was ever fetched */
void cs_jwks_release(cs_jwks_t *jwks, cs_keys_t *keys); /* accepts NULL */
/*
 * A token came whose key is unknown. 1: a fetch will follow, or is under way, and may bring it: the client should try again. 0: the last one
 * is less than a minute old, the key does not exist.
 */
int cs_jwks_want(cs_jwks_t *jwks, apr_time_t now);
/* Wanted, or never fetched (tried every 5 s), or 15 minutes old. A yes is the promise to call update. */
int cs_jwks_is_due(cs_jwks_t *jwks, apr_time_t now);
/* `keys` NULL: the fetch failed, the last good set stays. */
void cs_jwks_update(cs_jwks_t *jwks, cs_keys_t *keys, apr_time_t now);

/* ---- who asks ----------------------------------------------------------------------------------------------------- */

typedef enum {
    CS_WHO_ADDRESS, /* nobody said who: the client's address stands for the user */
    CS_WHO_HEADER,  /* a header that the configuration trusts */
    CS_WHO_TOKEN,
    CS_WHO_HTTPD /* another auth module */
} cs_who_e;

#define CS_NAME_MAX 255

typedef struct {
    /* what was said */
    const char *httpd_user; /* by another auth module; NULL: nothing */
    const char *header;     /* of the trusted header; NULL: nothing, or none is trusted */
    const char *address;
    const char *token; /* NULL: none */
    unsigned tokens;   /* in how many places there was one */
    /* what holds here */
    int required;
    const cs_keys_t *const *sets; /* NULL among them: a set that was never fetched */
    unsigned set_count;           /* 0: tokens mean nothing here */
    cs_token_policy_t policy;
} cs_credentials_t;

typedef struct {
    cs_who_e who;
    const char *user;      /* borrowed: from the credentials or from the claims */
    cs_claims_t *claims;   /* NULL: no token was verified; the caller destroys them */
    cs_result_t refusal;   /* status 0: none */
    const char *challenge; /* for WWW-Authenticate (RFC 6750 section 3), without realm; NULL: none */
    int unknown_key;       /* the refusal is about a key that none of the sets has */
} cs_identity_t;

/* The first that applies: another module's user, the token's sub, the trusted header, the address. A bad token is always refused. */
void cs_identify(const cs_credentials_t *credentials, apr_time_t wall_now, cs_identity_t *identity);

/* ---- CORS (WHATWG Fetch, section "CORS protocol") ------------------------------------------------------------------ */

typedef struct {
    const char *allow_origin; /* NULL: this origin may not read */
    int credentials;
    int vary; /* the answer depends on Origin */
} cs_cors_t;

/* `origins`: exact ones in lower case, or "*" alone. */
void cs_cors_decide(const char *const *origins, unsigned count, const char *origin, cs_cors_t *cors);
extern const char cs_cors_expose[];
/*
 * Access-Control-Allow-Headers of a preflight: all that EventSource, fetch and the SDKs send; of what was asked for beyond that, the
 * x-stainless-* names. Into `out`, cut at a name that does not fit.
 */
void cs_cors_allow_headers(char *out, size_t size, const char *requested);

/* ---- the list ------------------------------------------------------------------------------------------------------ */

typedef enum { CS_ADMIT_YES, CS_ADMIT_USER, CS_ADMIT_FULL, CS_ADMIT_READERS } cs_admit_e;

/* A request before the gate, and what comes of it. Everything is borrowed. */
typedef struct cs_case_t {
    cs_gate_t *gate;
    apr_time_t now; /* mono */
    /* what was asked */
    int streaming; /* 0: the whole answer as one document; needs neither flag nor rollout */
    const char *profile;
    const char *message; /* NULL: missing */
    size_t max_message;
    const cs_result_t *unreadable; /* status not 0: what is wrong with the parameters */
    const cs_identity_t *identity;
    /* what holds here */
    int enabled;
    int share;
    int in_cohort;
    cs_rate_rule_t rate; /* count 0: no limit */
    /* Claims a stream, or joins one: one step under the store's own lock. `retry_after` for CS_ADMIT_USER. */
    cs_admit_e (*admit)(void *baton, int *joined, uint32_t *retry_after);
    void *baton;
    /* what came of it */
    cs_rate_t counted;
    int was_asked;       /* `counted` says how things stand */
    int was_counted;     /* and this start is among them */
    cs_result_t refusal; /* status 0: passed */
} cs_case_t;

typedef enum {
    CS_GATE_NEW,  /* all checks; when it passes, a stream is claimed */
    CS_GATE_LOOK, /* those that neither count nor claim: HEAD */
    CS_GATE_OLD   /* resume and cancel: who asks */
} cs_gate_list_e;

/* 1: passed. 0: `refusal` says why. */
int cs_gate_pass(cs_case_t *asked, cs_gate_list_e list);

#endif
