/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/observe.h"

static const cs_observer_t *observer; /* set before there is a second thread */

void cs_observer_set(const cs_observer_t *wanted)
{
    observer = wanted;
}

int cs_tell_opened(const cs_opened_t *what, void **ticket)
{
    *ticket = NULL;
    return !observer || observer->opened(what, ticket);
}

void cs_tell_closed(void *ticket, const cs_closed_t *what)
{
    if (ticket) {
        observer->closed(ticket, what);
    }
}

void cs_tell_incident(const cs_incident_t *what)
{
    if (observer) {
        observer->incident(what);
    }
}
