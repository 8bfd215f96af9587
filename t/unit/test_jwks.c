/* SPDX-License-Identifier: Apache-2.0 */
/* jwks: when a key set is due, wanted or given up on, by a clock that is a number here; then many threads on one holder. */
#include <pthread.h>
#include <stdlib.h>

#include "gate/keys.h"
#include "tap.h"

#define SEC(s) apr_time_from_sec(s)
#define MIN(m) apr_time_from_sec((m)*60)
#define K32    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"

static cs_keys_t *make(void)
{
    static const char json[] = "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"" K32 "\"}]}";
    char error[256];
    cs_keys_t *keys;
    cs_keys_from_jwks(&keys, json, sizeof(json) - 1, error, sizeof(error));
    return keys;
}

static cs_jwks_t *make_holder(void)
{
    cs_jwks_t *jwks = NULL;
    ok(cs_jwks_create(&jwks) == APR_SUCCESS && jwks != NULL, "a holder");
    return jwks;
}

/* Start somewhere, not at 0: the monotonic clock of a machine just booted may be anything. */
static void test_never_fetched(apr_time_t t)
{
    cs_jwks_t *jwks = make_holder();
    ok(cs_jwks_acquire(jwks) == NULL, "there is no set");
    cs_jwks_release(jwks, NULL);
    ok(cs_jwks_want(jwks, t), "a key may come before the first fetch");
    ok(cs_jwks_is_due(jwks, t), "the first is due at once");
    ok(!cs_jwks_is_due(jwks, t) && !cs_jwks_is_due(jwks, t + MIN(60)), "one fetches, no second");
    ok(cs_jwks_want(jwks, t), "a key may come while it does");
    cs_jwks_update(jwks, NULL, t + SEC(1));
    ok(cs_jwks_acquire(jwks) == NULL, "a failure brings none");
    ok(cs_jwks_want(jwks, t + SEC(2)), "and says nothing of a key");
    ok(!cs_jwks_is_due(jwks, t + SEC(6) - 1), "not again before 5 s");
    ok(cs_jwks_is_due(jwks, t + SEC(6)), "but then");
    cs_jwks_update(jwks, NULL, t + SEC(7));
    ok(!cs_jwks_is_due(jwks, t + SEC(11)) && cs_jwks_is_due(jwks, t + SEC(12)), "every 5 s");
    cs_jwks_update(jwks, make(), t + SEC(12));
    ok(!cs_jwks_is_due(jwks, t + SEC(18)), "until it is there");
    cs_jwks_destroy(jwks);
}

static void test_wanted(apr_time_t t)
{
    cs_jwks_t *jwks = make_holder();
    ok(cs_jwks_is_due(jwks, t), "due");
    cs_jwks_update(jwks, make(), t);
    ok(!cs_jwks_want(jwks, t + SEC(60) - 1), "a key is unknown to a set younger than a minute: it does not exist");
    ok(!cs_jwks_is_due(jwks, t + SEC(61)), "and nothing follows from that");
    ok(cs_jwks_want(jwks, t + SEC(60)), "to an older one: it may come");
    ok(cs_jwks_want(jwks, t + SEC(60)), "for everybody who asks");
    ok(cs_jwks_is_due(jwks, t + SEC(60)), "wanted is due");
    ok(!cs_jwks_is_due(jwks, t + SEC(60)), "once");
    ok(cs_jwks_want(jwks, t + SEC(61)), "while it is under way, too");
    cs_jwks_update(jwks, make(), t + SEC(62));
    ok(!cs_jwks_want(jwks, t + SEC(63)) && !cs_jwks_is_due(jwks, t + SEC(63)), "then no more");
    ok(!cs_jwks_is_due(jwks, t + SEC(200)), "who asked in the meantime is served");

    ok(cs_jwks_want(jwks, t + SEC(200)) && cs_jwks_is_due(jwks, t + SEC(200)), "wanted again");
    cs_jwks_update(jwks, NULL, t + SEC(201));
    ok(cs_jwks_want(jwks, t + SEC(202)), "after a failure it may still come");
    ok(!cs_jwks_is_due(jwks, t + SEC(261) - 1), "but strangers' tokens make no more than a fetch a minute");
    ok(cs_jwks_is_due(jwks, t + SEC(261)), "which follows");
    cs_jwks_update(jwks, NULL, t + SEC(261));
    ok(cs_jwks_is_due(jwks, t + SEC(321)), "as long as it fails, also when nobody asks again");
    cs_keys_t *keys = cs_jwks_acquire(jwks);
    ok(keys != NULL, "the last good set stays all the time");
    cs_jwks_release(jwks, keys);
    cs_jwks_destroy(jwks);
}

static void test_age(apr_time_t t)
{
    cs_jwks_t *jwks = make_holder();
    ok(cs_jwks_is_due(jwks, t), "due");
    cs_jwks_update(jwks, make(), t);
    ok(!cs_jwks_is_due(jwks, t + MIN(15) - 1) && cs_jwks_is_due(jwks, t + MIN(15)), "a set grows old in 15 minutes");
    cs_jwks_update(jwks, NULL, t + MIN(15));
    ok(!cs_jwks_is_due(jwks, t + MIN(16) - 1) && cs_jwks_is_due(jwks, t + MIN(16)), "failed: again in a minute");
    cs_jwks_update(jwks, make(), t + MIN(16));
    ok(!cs_jwks_is_due(jwks, t + MIN(31) - 1) && cs_jwks_is_due(jwks, t + MIN(31)), "fetched: in 15");
    cs_jwks_destroy(jwks);
}

/* Valgrind and ASan watch this one. */
static void test_lifetime(void)
{
    cs_jwks_t *jwks = make_holder();
    cs_keys_t *first = make();
    ok(cs_jwks_is_due(jwks, 0), "due");
    cs_jwks_update(jwks, first, 0);
    cs_keys_t *a = cs_jwks_acquire(jwks);
    cs_keys_t *b = cs_jwks_acquire(jwks);
    ok(a == first && b == first, "the set that was put");
    cs_jwks_update(jwks, make(), 1);
    cs_keys_t *c = cs_jwks_acquire(jwks);
    ok(c != NULL && c != first, "now the newer one");
    cs_jwks_release(jwks, a);
    is_int(cs_keys_count(b), 1, "the older one lives as long as somebody holds it");
    cs_jwks_release(jwks, b);
    cs_jwks_release(jwks, c);
    is_int(cs_keys_count(c), 1, "the newest one always");
    cs_jwks_destroy(jwks);
    cs_jwks_destroy(NULL);
}

#define ROUNDS 20000

static void *use(void *baton)
{
    cs_jwks_t *jwks = baton;
    size_t wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        cs_keys_t *keys = cs_jwks_acquire(jwks);
        wrong += keys != NULL && (cs_keys_count(keys) != 1 || strcmp(keys->key[0].kid, "a") != 0);
        if (i % 100 == 0) {
            cs_jwks_want(jwks, SEC(i));
        }
        cs_jwks_release(jwks, keys);
    }
    return (void *)wrong;
}

static void *fetch(void *baton)
{
    cs_jwks_t *jwks = baton;
    size_t fetched = 0;
    for (int i = 0; i < ROUNDS; i++) {
        if (cs_jwks_is_due(jwks, SEC(i * 7))) {
            cs_jwks_update(jwks, i % 5 ? make() : NULL, SEC(i * 7));
            fetched++;
        }
    }
    return (void *)fetched;
}

static void test_threads(void)
{
    cs_jwks_t *jwks = make_holder();
    pthread_t thread[6];
    void *result;
    size_t fetched = 0, wrong = 0;
    for (int i = 0; i < 6; i++) {
        pthread_create(&thread[i], NULL, i < 2 ? fetch : use, jwks);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(thread[i], &result);
        *(i < 2 ? &fetched : &wrong) += (size_t)result;
    }
    ok(fetched > 10, "two threads fetched (%d times)", (int)fetched);
    is_int(wrong, 0, "four always had a whole set");
    cs_jwks_destroy(jwks);
}

int main(void)
{
    test_never_fetched(0);
    test_never_fetched(SEC(1000000));
    test_wanted(0);
    test_wanted(SEC(1000000));
    test_age(SEC(1));
    test_lifetime();
    test_threads();
    return done_testing();
}
