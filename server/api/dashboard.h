/* dashboard.h -- the page that shows what a running weir does, and where it is told what to do.
 *
 * Purpose    One file without outside parts. It has no data itself: it reads /metrics and, where
 *            there is a controller, /controller/state, with the key that its user gives it; so the
 *            page is open to all and what it shows is not.
 * Ownership  Constant.
 * Threads    Any.
 * Limits     None.
 */
#ifndef SERVER_API_DASHBOARD_H
#define SERVER_API_DASHBOARD_H

#include "server/http/exchange.h"

/* Answers with the page; false when the client has left. */
bool dashboard_answer(exchange *x);

#endif
