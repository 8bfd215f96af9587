/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz: what targets and replay.c agree on. A target is fed by libFuzzer (clang -fsanitize=fuzzer,address) or, in the
 * ordinary test run, by replay.c with the files of its corpus. It aborts when something is wrong.
 */
#ifndef T_FUZZ_FUZZ_H
#define T_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(cond)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                                         \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
