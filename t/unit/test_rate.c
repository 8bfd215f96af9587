/* SPDX-License-Identifier: Apache-2.0 */
/* Rates: answers, and a model that forgets nothing: never one start too many, never one refused that may be. */
#include <stdlib.h>

#include "chatstream/gate.h"
#include "gate/siphash.h"
#include "tap.h"

#define SEC ((apr_time_t)APR_USEC_PER_SEC)
#define MS  ((apr_time_t)1000)
#define TICK ((apr_time_t)64) /* stamps are rounded up to it */
#define DAY (86400 * SEC)

static cs_gate_t *make_gate(uint32_t rate_max)
{
    cs_gate_t *gate;

    if (cs_gate_create(&gate, rate_max)) {
        printf("Bail out! no gate\n");
        exit(1);
    }
    return gate;
}

static cs_rate_rule_t rule_of(const char *key, uint32_t count, apr_time_t window)
{
    cs_rate_rule_t rule = {"group", key, count, window};

    return rule;
}

static unsigned take_all(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now)
{
    cs_rate_t rate;
    unsigned taken = 0;

    while (taken < 100000 && cs_rate_take(gate, rule, now, &rate) == CS_RATE_OK) {
        taken++;
    }
    return taken;
}

/* ---- one after the other ----------------------------------------------------------------------------------------- */

static void test_answers(void)
{
    cs_gate_t *gate = make_gate(3);
    cs_rate_rule_t rule = rule_of("alice", 2, 10 * SEC), other = rule_of("bob", 2, 10 * SEC);
    apr_time_t now = 1000 * SEC + 300; /* not on a millisecond */
    cs_rate_t rate;

    is_int(cs_rate_peek(gate, &rule, now, &rate), CS_RATE_OK, "nothing counted yet");
    ok(rate.remaining == 2 && rate.reset == 0, "all are left");
    is_int(cs_rate_take(gate, &rule, now, &rate), CS_RATE_OK, "the first");
    ok(rate.remaining == 1 && rate.reset == 10, "one left, a window from now to the second (reset %u)", rate.reset);
    is_int(cs_rate_take(gate, &rule, now + 4 * SEC, &rate), CS_RATE_OK, "the second");
    ok(rate.remaining == 0 && rate.reset == 6, "none left until the first leaves (reset %u)", rate.reset);
    is_int(cs_rate_take(gate, &rule, now + 5 * SEC, &rate), CS_RATE_LIMITED, "the third");
    ok(rate.remaining == 0 && rate.reset == 5, "has to wait for the first (reset %u)", rate.reset);
    is_int(cs_rate_peek(gate, &rule, now + 10 * SEC - 1, &rate), CS_RATE_LIMITED, "a microsecond too early");
    is_int(rate.reset, 1, "a second at least");
    is_int(cs_rate_peek(gate, &rule, now + 10 * SEC + TICK, &rate), CS_RATE_OK, "who waits as told is let in, a tick later");
    ok(rate.remaining == 1 && rate.reset == 4, "peek counts nothing (reset %u)", rate.reset);
    is_int(cs_rate_take(gate, &other, now, &rate), CS_RATE_OK, "another key");
    other = rule;
    other.group = "other";
    is_int(cs_rate_take(gate, &other, now + 5 * SEC, &rate), CS_RATE_OK, "another group");
    other.group = "groupa";
    other.key = "lice";
    is_int(cs_rate_peek(gate, &other, now + 5 * SEC, &rate), CS_RATE_OK, "group and key do not run together");
    is_int(rate.remaining, 2, "so it is new");
    rule.count = 0;
    is_int(cs_rate_take(gate, &rule, now, &rate), CS_RATE_LIMITED, "none at all");
    is_int(rate.reset, 10, "has no better moment than a window later");
    cs_gate_destroy(gate);
}

static void test_give_back(void)
{
    cs_gate_t *gate = make_gate(3);
    cs_rate_rule_t rule = rule_of("alice", 3, 10 * SEC);
    apr_time_t now = 1000 * SEC;
    cs_rate_t first, second, third, rate;

    cs_rate_take(gate, &rule, now, &first);
    cs_rate_take(gate, &rule, now + 2 * SEC, &second);
    cs_rate_take(gate, &rule, now + 4 * SEC, &third);
    is_int(cs_rate_peek(gate, &rule, now + 5 * SEC, &rate), CS_RATE_LIMITED, "three of three");
    cs_rate_give_back(gate, &rule, &second);
    is_int(cs_rate_peek(gate, &rule, now + 5 * SEC, &rate), CS_RATE_OK, "one came back");
    ok(rate.remaining == 1 && rate.reset == 5, "the first still counts");
    cs_rate_peek(gate, &rule, now + 10 * SEC, &rate);
    ok(rate.remaining == 2 && rate.reset == 4, "and the third");
    cs_rate_give_back(gate, &rule, &second);
    cs_rate_peek(gate, &rule, now + 5 * SEC, &rate);
    is_int(rate.remaining, 1, "what is not there cannot be given back");
    cs_rate_give_back(gate, &rule, &third);
    cs_rate_give_back(gate, &rule, &first);
    cs_rate_peek(gate, &rule, now + 5 * SEC, &rate);
    ok(rate.remaining == 3 && rate.reset == 0, "all are back");
    is_int(take_all(gate, &rule, now + 5 * SEC), 3, "and can be had again");
    rule.key = "nobody";
    cs_rate_give_back(gate, &rule, &first);
    is_int(take_all(gate, &rule, now + 5 * SEC), 3, "a key nobody knows");
    cs_gate_destroy(gate);
}

static void test_changed_rule(void)
{
    cs_gate_t *gate = make_gate(40);
    cs_rate_rule_t rule = rule_of("alice", 5, 10 * SEC);
    apr_time_t now = 1000 * SEC;
    cs_rate_t rate;
    unsigned i;

    for (i = 0; i < 20; i++) {
        is_int(cs_rate_take(gate, &rule, now + i * 2 * SEC, &rate), CS_RATE_OK, "start %u", i);
    }
    now += 38 * SEC; /* starts are 0, 2, 4 ... seconds old */
    rule.count = 3;
    is_int(cs_rate_peek(gate, &rule, now, &rate), CS_RATE_LIMITED, "a smaller count");
    is_int(rate.reset, 6, "waits until only two are left");
    rule.count = 25;
    rule.window = 39 * SEC;
    is_int(cs_rate_peek(gate, &rule, now, &rate), CS_RATE_OK, "a larger count and a longer window");
    is_int(rate.remaining, 5, "know of starts that the old window had let go");
    rule.count = 12;
    is_int(cs_rate_peek(gate, &rule, now, &rate), CS_RATE_LIMITED, "a longer window is exact");
    is_int(rate.reset, 39 - 22, "and says when");
    rule.window = SEC;
    is_int(cs_rate_peek(gate, &rule, now, &rate), CS_RATE_OK, "a shorter one, too");
    is_int(rate.remaining, 11, "counts the last start only");
    cs_gate_destroy(gate);
}

/* Stamps are half as wide as times: an entry as old as a whole turn of them must not come back to life. */
static void test_turns(void)
{
    cs_gate_t *gate = make_gate(4);
    cs_rate_rule_t rule = rule_of("alice", 4, DAY);
    apr_time_t turn = ((apr_time_t)1 << 32) * TICK, now = turn - 2 * MS;
    cs_rate_t rate;
    unsigned i;

    for (i = 0; i < 4; i++) {
        is_int(cs_rate_take(gate, &rule, now + i * MS, &rate), CS_RATE_OK, "start %u around the turn", i);
    }
    is_int(cs_rate_take(gate, &rule, now + DAY - 1, &rate), CS_RATE_LIMITED, "all count a day later");
    cs_rate_peek(gate, &rule, now + DAY + TICK, &rate);
    is_int(rate.remaining, 1, "they leave one by one");
    for (i = 1; i < 5; i++) {
        cs_rate_peek(gate, &rule, now + i * turn + 2 * MS, &rate);
        is_int(rate.remaining, 4, "%u turns later all are left", i);
    }
    is_int(take_all(gate, &rule, now + 2 * turn), 4, "and can be had");
    cs_gate_destroy(gate);
}

static void test_gates(void)
{
    cs_gate_t *gate = make_gate(0);
    cs_rate_rule_t rule = rule_of("alice", 1, SEC);
    cs_rate_t rate;

    ok(cs_gate_holds(gate, 0) && !cs_gate_holds(gate, 1), "a gate without rates");
    is_int(cs_rate_take(gate, &rule, SEC, &rate), CS_RATE_FULL, "lets nobody through who is limited");
    is_int(cs_rate_peek(gate, &rule, SEC, &rate), CS_RATE_FULL, "nor says it would");
    cs_rate_give_back(gate, &rule, &rate);
    cs_gate_destroy(gate);
    gate = make_gate(5);
    ok(cs_gate_holds(gate, 64) && !cs_gate_holds(gate, 65), "a small one holds 64");
    rule.count = 1000;
    is_int(take_all(gate, &rule, SEC), 64, "and lets through no more than it can count");
    cs_gate_destroy(gate);
    gate = make_gate(65);
    ok(cs_gate_holds(gate, 128) && !cs_gate_holds(gate, 129), "the next one 128");
    rule.count = 128;
    is_int(take_all(gate, &rule, SEC), 128, "of which it counts each");
    cs_gate_destroy(gate);
    is_int(cs_gate_create(&gate, UINT32_MAX), APR_ENOMEM, "absurd counts have no room");
    ok(!gate, "and no gate");
    ok(!cs_gate_holds(NULL, 0), "no gate holds nothing");
    cs_gate_destroy(NULL);
}

static void test_full(void)
{
    enum { KEYS = 4000 };
    cs_gate_t *gate = make_gate(16384); /* 64 KiB an entry leave room for 1024 */
    apr_time_t now = 1000 * SEC;
    unsigned i, in = 0, full = 0, forgotten = 0, long_in = 0, early = 0, late = 0;
    static unsigned char inside[KEYS];
    cs_rate_t rate;
    char key[20];

    for (i = 0; i < KEYS; i++) {
        cs_rate_rule_t rule = rule_of(key, 1, i % 4 ? 60 * SEC : 120 * SEC);

        snprintf(key, sizeof(key), "k%u", i);
        inside[i] = cs_rate_take(gate, &rule, now + i, &rate) == CS_RATE_OK;
        in += inside[i];
        if (inside[i] && i % 4 == 0) { /* a shorter rule of the same group does not end it sooner */
            cs_rate_rule_t brief = rule_of(key, 100, SEC);

            long_in += cs_rate_take(gate, &brief, now + i, &rate) == CS_RATE_OK;
        }
        if (!inside[i]) {
            full += cs_rate_take(gate, &rule, now + i, &rate) == CS_RATE_FULL;
            early += rate.reset < 50 || rate.reset > 121;
        }
    }
    is_int(in, 1024, "the table is full");
    is_int(full, KEYS - 1024, "everybody else is told so");
    is_int(early, 0, "and when there will be room");
    for (i = 0; i < KEYS; i++) {
        cs_rate_rule_t rule = rule_of(key, 1, i % 4 ? 60 * SEC : 120 * SEC);

        snprintf(key, sizeof(key), "k%u", i);
        forgotten += inside[i] && cs_rate_peek(gate, &rule, now + 59 * SEC, &rate) != CS_RATE_LIMITED;
    }
    is_int(forgotten, 0, "nobody who is in was pushed out");
    for (i = in = 0; i < KEYS; i++) { /* short windows are over, long ones are not */
        cs_rate_rule_t rule = rule_of(key, 1, 60 * SEC);

        snprintf(key, sizeof(key), "n%u", i);
        in += cs_rate_take(gate, &rule, now + 61 * SEC, &rate) == CS_RATE_OK;
    }
    is_int(in, 1024 - long_in, "only whose window is over makes room");
    for (i = forgotten = 0; i < KEYS; i += 4) {
        cs_rate_rule_t rule = rule_of(key, 1, 120 * SEC);

        snprintf(key, sizeof(key), "k%u", i);
        forgotten += inside[i] && cs_rate_peek(gate, &rule, now + 119 * SEC, &rate) != CS_RATE_LIMITED;
    }
    is_int(forgotten, 0, "the others still count");
    for (i = 0; i < KEYS; i++) {
        cs_rate_rule_t rule = rule_of(key, 1, 60 * SEC);

        snprintf(key, sizeof(key), "m%u", i);
        if (cs_rate_take(gate, &rule, now + 62 * SEC, &rate) == CS_RATE_FULL) {
            late += cs_rate_peek(gate, &rule, now + (62 + rate.reset) * SEC, &rate) != CS_RATE_OK;
        }
    }
    is_int(late, 0, "who waits as told finds room");
    cs_gate_destroy(gate);
}

static void test_address_keys(void)
{
    static const char *const pairs[][2] = {
        {"192.0.2.1", "192.0.2.1"},
        {"::ffff:192.0.2.1", "192.0.2.1"},
        {"::FFFF:c000:201", "192.0.2.1"},
        {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
        {"2001:0DB8:0001:0002::1", "2001:db8:1:2::/64"},
        {"fe80::1%eth0", "fe80::/64"},
        {"fe80::1%a-very-long-interface-name-that-is-longer-than-any-address", "fe80::/64"},
        {"::1", "::/64"},
        {"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8:ffff:ffff::/64"},
        {"1111:2222:3333:4444:5555:6666:7777:8888", "1111:2222:3333:4444::/64"},
        {"", ""},
        {"192.0.2.256", "192.0.2.256"},
        {"192.0.2.1%eth0", "192.0.2.1%eth0"},
        {"unix:/run/x", "unix:/run/x"},
    };
    char out[CS_ADDRESS_KEY_MAX], longer[2][100];
    unsigned i;

    for (i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        cs_rate_address_key(out, pairs[i][0]);
        is_str(out, pairs[i][1], "address \"%s\"", pairs[i][0]);
    }
    for (i = 0; i < 2; i++) {
        memset(longer[i], 'x', 99);
        longer[i][98] = (char)('a' + i);
        longer[i][99] = '\0';
    }
    cs_rate_address_key(out, longer[0]);
    cs_rate_address_key(longer[0], longer[1]);
    ok(strlen(out) < CS_ADDRESS_KEY_MAX && strcmp(out, longer[0]), "two that are too long remain two");
}

/* The first and second of the reference implementation's vectors_sip128, and the last: 63 bytes. */
static void test_siphash(void)
{
    static const struct {
        size_t len;
        uint64_t out[2];
    } vectors[] = {{0, {UINT64_C(0xe6a825ba047f81a3), UINT64_C(0x930255c71472f66d)}},
                   {1, {UINT64_C(0x44af996bd8c187da), UINT64_C(0x45fc229b11597634)}},
                   {63, {UINT64_C(0x4a83502f77d15051), UINT64_C(0x7cbd3f979a063e50)}}};
    uint64_t seed[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)}, out[2];
    unsigned char bytes[64];
    unsigned i;

    for (i = 0; i < 64; i++) {
        bytes[i] = (unsigned char)i;
    }
    for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        siphash_t hash;

        siphash_begin(&hash, seed);
        siphash_add(&hash, bytes, vectors[i].len);
        siphash_end(&hash, out);
        ok(out[0] == vectors[i].out[0] && out[1] == vectors[i].out[1], "SipHash of %d bytes", (int)vectors[i].len);
    }
}

/* ---- against a model --------------------------------------------------------------------------------------------- */

enum { MODEL_KEYS = 3000, MODEL_STEPS = 400000, MODEL_KEEPS = 160, MODEL_MAX = 64 };

typedef struct {
    apr_time_t starts[MODEL_KEEPS]; /* the latest, oldest first */
    unsigned count;
    uint32_t rule_count;
    apr_time_t window;
} model_t;

static unsigned model_count(const model_t *model, apr_time_t now, apr_time_t window)
{
    unsigned i, count = 0;

    for (i = 0; i < model->count; i++) {
        count += model->starts[i] > now - window;
    }
    return count;
}

static void model_add(model_t *model, apr_time_t now)
{
    if (model->count == MODEL_KEEPS) {
        memmove(model->starts, model->starts + 1, (MODEL_KEEPS - 1) * sizeof(apr_time_t));
        model->count--;
    }
    model->starts[model->count++] = now;
}

static apr_time_t random_window(unsigned *seed)
{
    switch (rand_r(seed) % 6) {
    case 0:
        return (1 + rand_r(seed) % 20) * MS;
    case 1:
        return 1 + rand_r(seed) % 5000; /* not whole milliseconds */
    case 2:
        return DAY - rand_r(seed) % 1000;
    case 3:
        return (1 + rand_r(seed) % 3600) * SEC;
    default:
        return (1 + rand_r(seed) % 60) * SEC;
    }
}

static apr_time_t random_step(unsigned *seed, apr_time_t window)
{
    int kind = rand_r(seed) % 4000;

    if (kind == 0) {
        return (rand_r(seed) % 100) * DAY; /* past any turn of the stamps */
    }
    if (kind < 10) {
        return window + rand_r(seed) % 5000 - (window > 2500 ? 2500 : window);
    }
    if (kind < 200) {
        return (apr_time_t)(rand_r(seed) % 1000) * window / 4000;
    }
    return kind < 2000 ? rand_r(seed) % 3000 : rand_r(seed) % 100;
}

/* `skew`: how far the clocks of two callers may be apart when the later one comes first. */
static void test_model(unsigned seed, unsigned keys, apr_time_t skew)
{
    cs_gate_t *gate = make_gate(MODEL_MAX);
    model_t *models = calloc(keys, sizeof(*models));
    unsigned long step, bad_allow = 0, bad_forbid = 0, bad_words = 0, bad_reset = 0, limited = 0, full = 0, back = 0;
    apr_time_t clock = (((apr_time_t)1 << 32) - 100000) * TICK, slack = 2 * TICK + skew;
    unsigned i;

    for (i = 0; i < keys; i++) {
        models[i].rule_count = 1 + (uint32_t)rand_r(&seed) % (i % 3 ? 8 : MODEL_MAX);
        models[i].window = random_window(&seed);
    }
    for (step = 0; step < MODEL_STEPS; step++) {
        unsigned among = rand_r(&seed) % 3 && keys > 20 ? 20 : keys, exact, loose;
        unsigned who = (unsigned)rand_r(&seed) % among;
        model_t *model = &models[who];
        cs_rate_rule_t rule;
        cs_rate_t rate, ahead;
        char key[20];
        apr_time_t now;
        cs_rate_e got;

        if (rand_r(&seed) % 500 == 0) { /* a graceful restart */
            model->rule_count = 1 + (uint32_t)rand_r(&seed) % MODEL_MAX;
            model->window = random_window(&seed);
        }
        clock += random_step(&seed, model->window);
        now = clock - (skew ? rand_r(&seed) % skew : 0);
        snprintf(key, sizeof(key), "user%u", who);
        rule = rule_of(key, model->rule_count, model->window);
        got = cs_rate_peek(gate, &rule, now, &ahead);
        bad_words += got != cs_rate_take(gate, &rule, now, &rate);
        exact = model_count(model, now, rule.window);
        loose = model_count(model, now, rule.window + slack);
        full += got == CS_RATE_FULL;
        if (got == CS_RATE_OK) {
            bad_allow += exact >= rule.count;
            bad_words += rate.remaining + 1 != ahead.remaining || rate.remaining + 1 + exact > rule.count
                         || rate.remaining + 1 + loose < rule.count || !rate.reset || (loose == 0 && ahead.reset);
            model_add(model, now);
            if (rand_r(&seed) % 8 == 0) {
                cs_rate_give_back(gate, &rule, &rate);
                model->count--;
                back++;
            }
        }
        else if (got == CS_RATE_LIMITED) {
            limited++;
            bad_forbid += loose < rule.count;
            bad_words += rate.reset != ahead.reset || !rate.reset || rate.remaining;
            bad_reset += cs_rate_peek(gate, &rule, now + rate.reset * SEC + TICK, &ahead) != CS_RATE_OK;
            bad_reset +=
                rate.reset > 1 && model_count(model, now + (rate.reset - 1) * SEC, rule.window + slack) < rule.count;
        }
    }
    printf("# %u keys, skew %d: %lu limited, %lu given back\n", keys, (int)skew, limited, back);
    is_int(bad_allow, 0, "never one more than the model allows");
    is_int(bad_forbid, 0, "none refused that the model would let in two ticks later");
    is_int(bad_words, 0, "remaining and peek are right");
    is_int(bad_reset, 0, "reset is neither too early nor a second too late");
    is_int(full, 0, "the table has room");
    ok(limited > MODEL_STEPS / 50, "there was something to refuse");
    free(models);
    cs_gate_destroy(gate);
}

int main(void)
{
    test_siphash();
    test_answers();
    test_give_back();
    test_changed_rule();
    test_turns();
    test_gates();
    test_full();
    test_address_keys();
    test_model(1, MODEL_KEYS, 0);
    test_model(2, 5, 0);
    test_model(3, MODEL_KEYS, 5 * MS);
    return done_testing();
}
