/* SPDX-License-Identifier: Apache-2.0 */
/* Rollout shares: even, independent between profiles, growing, and the same for ever. */
#include <stdlib.h>

#include "chatstream/gate.h"
#include "tap.h"

enum { USERS = 100000, CELLS = 100 };

/* Chi-square of 99 degrees of freedom: beyond 149 once in a thousand; the draw is fixed, so it does not fail by chance. */
#define EVEN 149.0

/* The user's place, by halving: he is in at every share above it. */
static int place_of(const char *profile, const char *user)
{
    int low = 0, high = CS_SHARE_ALL - 1;

    while (low < high) {
        int mid = (low + high) / 2;

        if (cs_rollout_includes(profile, user, mid + 1)) {
            high = mid;
        }
        else {
            low = mid + 1;
        }
    }
    return low;
}

static void sequential(char *out, size_t size, unsigned i)
{
    snprintf(out, size, "user%u", i);
}

static void email(char *out, size_t size, unsigned i)
{
    snprintf(out, size, "first.last+%u@mail%u.example.com", i / 7, i % 7);
}

static void ipv4(char *out, size_t size, unsigned i)
{
    snprintf(out, size, "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
}

static void uuid(char *out, size_t size, unsigned i)
{
    uint64_t a = cs_hash64(&i, sizeof(i)), b = cs_hash64(&a, sizeof(a));

    snprintf(out, size, "%08x-%04x-7%03x-%04x-%012llx", (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff,
             (unsigned)a & 0xfff, (unsigned)(b >> 48), (unsigned long long)b & 0xffffffffffffull);
}

static void number(char *out, size_t size, unsigned i)
{
    snprintf(out, size, "%u", i);
}

static void test_evenness(const char *what, void (*name)(char *, size_t, unsigned))
{
    static const char *const profiles[] = {"", "chat", "/api/chat/stream"};
    unsigned p, i;

    for (p = 0; p < 3; p++) {
        unsigned cells[CELLS] = {0};
        double chi = 0, expected = (double)USERS / CELLS;
        char user[80];

        for (i = 0; i < USERS; i++) {
            name(user, sizeof(user), i);
            cells[place_of(profiles[p], user) / (CS_SHARE_ALL / CELLS)]++;
        }
        for (i = 0; i < CELLS; i++) {
            chi += (cells[i] - expected) * (cells[i] - expected) / expected;
        }
        if (!ok(chi < EVEN && chi > 60, "%s are spread evenly over \"%s\"", what, profiles[p])) {
            printf("#   chi-square %.1f\n", chi);
        }
    }
}

static void test_independence(const char *one, const char *other, int share)
{
    double both[2][2] = {{0}}, n = USERS, chi = 0;
    unsigned i, a, b;
    char user[80];

    for (i = 0; i < USERS; i++) {
        sequential(user, sizeof(user), i);
        both[cs_rollout_includes(one, user, share)][cs_rollout_includes(other, user, share)]++;
    }
    for (a = 0; a < 2; a++) {
        for (b = 0; b < 2; b++) {
            double expected = (both[a][0] + both[a][1]) * (both[0][b] + both[1][b]) / n;

            chi += (both[a][b] - expected) * (both[a][b] - expected) / expected;
        }
    }
    if (!ok(chi < 10.8, "\"%s\" and \"%s\" draw apart at %d", one, other, share)) {
        printf("#   chi-square %.1f\n", chi);
    }
}

static void test_growth(void)
{
    unsigned i, left = 0, wrong = 0;
    char user[80];
    int share;

    for (i = 0; i < 200; i++) {
        int in = 0;

        uuid(user, sizeof(user), i);
        for (share = 0; share <= CS_SHARE_ALL; share++) {
            int now_in = cs_rollout_includes("p", user, share);

            left += in && !now_in;
            in = now_in;
        }
        wrong += !in || cs_rollout_includes("p", user, 0) || cs_rollout_includes("p", user, -1)
                 || !cs_rollout_includes("p", user, CS_SHARE_ALL + 1);
    }
    is_int(left, 0, "nobody leaves while the share grows");
    is_int(wrong, 0, "nobody is in at nothing, everybody at all");
}

/* Fails when the function changes: whoever is in would be exchanged. */
static void test_for_ever(void)
{
    static const struct {
        const char *profile, *user;
        int place;
    } known[] = {
        {"", "", 9030},
        {"chat", "alice", 9713},
        {"chat", "bob@example.com", 3896},
        {"onboarding", "alice", 7887},
        {"/api/chat/stream", "192.0.2.1", 5673},
        {"chat", "0195f1c2-7d3a-7c11-8e21-5b7d9a0c1e2f", 7589},
    };
    unsigned i;

    for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        is_int(place_of(known[i].profile, known[i].user), known[i].place, "\"%s\", \"%s\" keeps its place",
               known[i].profile, known[i].user);
    }
    ok(place_of("ab", "c") != place_of("a", "bc"), "profile and user do not run together");
}

int main(void)
{
    test_for_ever();
    test_growth();
    test_evenness("sequential names", sequential);
    test_evenness("numbers", number);
    test_evenness("emails", email);
    test_evenness("IPv4 addresses", ipv4);
    test_evenness("UUIDs", uuid);
    test_independence("chat", "onboarding", 500);
    test_independence("chat", "onboarding", 2500);
    test_independence("chat1", "chat2", 5000);
    test_independence("", "chat", 1000);
    return done_testing();
}
