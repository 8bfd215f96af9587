/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is in: a user has one place among CS_SHARE_ALL for each profile, drawn from both names. It must never change: that would
 * exchange the users under every operator's feet.
 */
#include <string.h>

#include "chatstream/gate.h"

static void put_hash(unsigned char out[8], const char *text)
{
    uint64_t hash = cs_hash64(text, strlen(text));
    int i;

    for (i = 0; i < 8; i++) {
        out[i] = (unsigned char)(hash >> (8 * i)); /* the same on every machine */
    }
}

int cs_rollout_includes(const char *profile, const char *user, int share)
{
    unsigned char both[16];

    put_hash(both, profile);
    put_hash(both + 8, user);
    return (int)(cs_hash64(both, sizeof(both)) % CS_SHARE_ALL) < share;
}
