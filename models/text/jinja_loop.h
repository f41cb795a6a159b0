/* jinja_loop.h -- a running `for`, and the variable `loop`.
 *
 * Purpose    Takes items one by one, past those its condition drops; looks one ahead when asked
 *            (loop.last, loop.nextitem) and reads all when asked for a length it can't know.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_LOOP_H
#define MODELS_TEXT_JINJA_LOOP_H

#include "models/text/jinja_vm.h"

struct jinja_loop {
    const jinja_node *node; /* JINJA_FOR */
    jinja_scope *outer;
    jinja_walk walk;
    jinja_list *pending; /* read ahead for the length; taken from pending_at on */
    size_t pending_at;
    int64_t index0;
    int64_t length;                     /* -1: not known yet */
    int32_t depth0;                     /* of recursion */
    jinja_value before, current, after; /* ABSENT: none */
    jinja_value changed;                /* what loop.changed saw last */
};

jinja_loop *jinja_loop_make(jinja_vm *vm, const jinja_node *node, jinja_value over, int32_t depth0);

/* The next turn's item; false at the end. */
bool jinja_loop_next(jinja_vm *vm, jinja_loop *loop, jinja_value *item);

/* loop.NAME, or ABSENT. */
jinja_value jinja_loop_attribute(jinja_vm *vm, jinja_loop *loop, str name);

#endif
