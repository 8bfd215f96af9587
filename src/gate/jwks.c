/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdlib.h>

#include "gate/keys.h"

#define FIRST_EVERY apr_time_from_sec(5)
#define WANTED_EVERY                                                                                                   \
    apr_time_from_sec(60) /* also how soon after a failure: tokens of strangers must not hammer the issuer */
#define AGE_MAX apr_time_from_sec(15 * 60)

struct cs_jwks_t {
    pthread_mutex_t lock; /* everything below, and the refs of every set that was ever here */
    cs_keys_t *keys;      /* the newest good set, which holds a reference; NULL: none yet */
    apr_time_t good_at;   /* when it came */
    apr_time_t tried_at;  /* when the last fetch ended, however */
    int was_tried;
    int is_under_way; /* somebody was told it is due */
    int is_wanted;
};

apr_status_t cs_jwks_create(cs_jwks_t **out)
{
    cs_jwks_t *jwks = calloc(1, sizeof(*jwks));
    *out = NULL;
    if (jwks == NULL) {
        return APR_ENOMEM;
    }
    int error = pthread_mutex_init(&jwks->lock, NULL);
    if (error != 0) {
        free(jwks);
        return error;
    }
    *out = jwks;
    return APR_SUCCESS;
}

void cs_jwks_destroy(cs_jwks_t *jwks)
{
    if (jwks != NULL) {
        cs_keys_destroy(jwks->keys);
        pthread_mutex_destroy(&jwks->lock);
        free(jwks);
    }
}

cs_keys_t *cs_jwks_acquire(cs_jwks_t *jwks)
{
    pthread_mutex_lock(&jwks->lock);
    cs_keys_t *keys = jwks->keys;
    if (keys != NULL) {
        keys->refs++;
    }
    pthread_mutex_unlock(&jwks->lock);
    return keys;
}

/* Whoever lets go last destroys, after the lock: others need not wait for that. */
static int drop(cs_keys_t *keys)
{
    return keys != NULL && --keys->refs == 0;
}

void cs_jwks_release(cs_jwks_t *jwks, cs_keys_t *keys)
{
    pthread_mutex_lock(&jwks->lock);
    int is_last = drop(keys);
    pthread_mutex_unlock(&jwks->lock);
    if (is_last) {
        cs_keys_destroy(keys);
    }
}

int cs_jwks_want(cs_jwks_t *jwks, apr_time_t now)
{
    pthread_mutex_lock(&jwks->lock);
    /*
     * A fetch that failed says nothing about the key, so only a good one may answer no. While one is under way, the set that is there
     * is older than this: else it had not been due.
     */
    int may_come = jwks->keys == NULL || now - jwks->good_at >= WANTED_EVERY;
    jwks->is_wanted |= may_come;
    pthread_mutex_unlock(&jwks->lock);
    return may_come;
}

static int is_due(const cs_jwks_t *jwks, apr_time_t now)
{
    if (jwks->is_under_way) {
        return 0;
    }
    if (!jwks->was_tried) {
        return 1;
    }
    if (jwks->keys == NULL) {
        return now - jwks->tried_at >= FIRST_EVERY;
    }
    return now - jwks->tried_at >= WANTED_EVERY && (jwks->is_wanted || now - jwks->good_at >= AGE_MAX);
}

int cs_jwks_is_due(cs_jwks_t *jwks, apr_time_t now)
{
    pthread_mutex_lock(&jwks->lock);
    int due = is_due(jwks, now);
    if (due) {
        jwks->is_under_way = 1;
    }
    pthread_mutex_unlock(&jwks->lock);
    return due;
}

void cs_jwks_update(cs_jwks_t *jwks, cs_keys_t *keys, apr_time_t now)
{
    cs_keys_t *old = NULL;
    pthread_mutex_lock(&jwks->lock);
    jwks->is_under_way = 0;
    jwks->was_tried = 1;
    jwks->tried_at = now;
    if (keys != NULL) {
        old = jwks->keys;
        keys->refs = 1;
        jwks->keys = keys;
        jwks->good_at = now;
        jwks->is_wanted = 0;
    }
    int is_last = drop(old);
    pthread_mutex_unlock(&jwks->lock);
    if (is_last) {
        cs_keys_destroy(old);
    }
}
