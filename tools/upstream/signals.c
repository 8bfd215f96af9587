/* SPDX-License-Identifier: Apache-2.0 */
#include "signals.h"

#include <stdlib.h>
#include <string.h>

#define SIGNALS_MAX 4096

static char (*raised)[UP_NAME_MAX + 1];
static size_t raised_count;
static up_waiter_t *waiting;

static size_t find(const char *name)
{
    size_t i;

    for (i = 0; i < raised_count; i++) {
        if (strcmp(raised[i], name) == 0) {
            break;
        }
    }
    return i;
}

static void wake(const char *name)
{
    up_waiter_t *waiter = waiting;

    while (waiter != NULL) {
        up_waiter_t *next = waiter->next;
        up_exchange_t *x = UP_CONTAINER(waiter, up_exchange_t, waiter);

        if (strcmp(x->signal, name) == 0) {
            up_exchange_resume(x);
        }
        waiter = next;
    }
}

bool up_signals_raise(const char *name)
{
    if (find(name) == raised_count) {
        if (raised_count == SIGNALS_MAX) {
            return false;
        }
        if (raised == NULL) {
            raised = up_alloc(SIGNALS_MAX * sizeof *raised);
        }
        strcpy(raised[raised_count++], name);
    }
    wake(name);
    return true;
}

void up_signals_lower(const char *name)
{
    size_t i = find(name);

    if (i < raised_count) {
        raised_count--;
        memmove(raised[i], raised[raised_count], sizeof *raised);
    }
}

void up_signals_lower_all(void)
{
    free(raised);
    raised = NULL;
    raised_count = 0;
}

bool up_signals_wait(up_exchange_t *x, const char *name)
{
    if (find(name) < raised_count) {
        return true;
    }
    x->signal = name;
    up_waiter_add(&waiting, &x->waiter);
    return false;
}
