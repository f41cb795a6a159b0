/* commands.h -- `weir tokenize` and `weir template`: what to reach for when a model misbehaves.
 *
 * Purpose    Show the ids a model's tokeniser gives, and what a chat template renders.
 * Ownership  Everything is released before they return.
 * Threads    The main thread.
 * Limits     Inputs of COMMANDS_INPUT_BYTES.
 */
#ifndef SERVER_COMMANDS_H
#define SERVER_COMMANDS_H

enum { COMMANDS_INPUT_BYTES = 1 << 28 };

/* Arguments after the sub-command; return the exit status. */
int commands_tokenize(int argc, char *const *argv);
int commands_template(int argc, char *const *argv);

#endif
