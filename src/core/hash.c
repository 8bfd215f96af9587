/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hash: FNV-1a with a finisher, because FNV alone leaves the low bits of short keys poorly mixed. Same value on every
 * machine and in every version, so it may stand in shared memory and decide about rollouts.
 */
#include "chatstream/core.h"

uint64_t cs_hash64(const void *bytes, size_t len)
{
    const unsigned char *p = bytes;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++) {
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    }
    h = (h ^ (h >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ (h >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ (h >> 33);
}
