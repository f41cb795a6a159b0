/* hello.h -- whether two workers can work together.
 *
 * Purpose    What peers compare when they join: the protocol, the model, the layout of KV pages and
 *            the numerics class. What differs is refused at the join, with its reason, and never
 *            found out by a request.
 * Ownership  Plain values; text is borrowed.
 * Threads    Pure functions.
 * Limits     None.
 */
#ifndef ENGINE_CORE_HELLO_H
#define ENGINE_CORE_HELLO_H

#include "engine/core/message.h"

/* STATUS_OK, or STATUS_MISMATCH with the first difference that forbids pages, or requests, of one
 * to go on at the other. Both ends come to the same answer. */
MUST_USE status hello_fits(const message_hello *mine, const message_hello *theirs, diag *d);

/* Of two that fit: the same numerics class. Else they have a model on different numbers of devices:
 * pages are the same bytes in the same order, for they travel whole, but sums were rounded
 * elsewhere, and where two tokens are all but equally likely one may choose the other. */
bool hello_rounds_alike(const message_hello *mine, const message_hello *theirs);

/* Of two that fit: a P and a D on GPUs, of these roles for good, whose KV is of other types, D's no
 * larger. IPC and NCCL alone carry it; D rounds each token anew as it puts it into its pages. */
bool hello_converts(const message_hello *mine, const message_hello *theirs);

/* The type's name, as the KV layout has it. */
str hello_kv_type(const message_hello *h);

/* What can carry KV between two workers, the best first. */
typedef enum {
    HELLO_LOCAL,
    HELLO_SHM,
    HELLO_IPC,
    HELLO_NCCL,
    HELLO_TCP,
    HELLO_TRANSPORTS
} hello_transport;

#define HELLO_BIT(transport) (1u << (transport))

const char *hello_transport_name(hello_transport t);

/* What carries KV between the two: the best that both may use and the link reaches (HELLO_BITs).
 * STATUS_MISMATCH says why nothing does. Both ends come to the same answer. */
MUST_USE status hello_carries(const message_hello *mine, const message_hello *theirs,
                              uint32_t reach, hello_transport *out, diag *d);

/* Why it is that one. */
typedef enum {
    HELLO_ASKED,       /* one of the two may use no other */
    HELLO_ONE_PROCESS, /* a worker of both phases */
    HELLO_ONE_HOST,    /* devices of one host, or one device */
    HELLO_TWO_HOSTS,   /* devices of two */
    HELLO_NO_IPC,      /* devices of one host that open no memory of each other */
    HELLO_HOST_MEMORY, /* one of the two has its KV there */
    HELLO_NO_DEVICES,  /* both have devices, and nothing between them */
    HELLO_REASONS
} hello_reason;

const char *hello_reason_name(hello_reason r);

/* Of what hello_carries has chosen; both ends come to the same answer. */
hello_reason hello_why(const message_hello *mine, const message_hello *theirs, hello_transport t);

/* A device's memory may go to the other's without the host's: whoever introduces the two gives them
 * addresses, for such a channel has a connection of its own. */
bool hello_between_devices(const message_hello *a, const message_hello *b);

/* A HELLO that outlives the message it came in. */
typedef struct {
    message_hello hello; /* its texts point into what follows */
    char numerics[MESSAGE_NUMERICS_BYTES];
    char kv_layout[MESSAGE_LAYOUT_BYTES];
    char address[MESSAGE_ADDRESS_BYTES + 1]; /* terminated */
} hello_kept;

void hello_keep(hello_kept *out, const message_hello *hello);

#endif
