/* prefix.h -- finds KV pages that were computed before for the same leading tokens.
 *
 * Purpose    Maps (tenant, all tokens up to here) to the block of pages that holds the last of
 *            them, so that shared prompts are computed once. A freed block stays findable until
 *            it is reused.
 * Ownership  The cache owns nothing: pages are blocks'. prefix_find takes references for the
 *            caller.
 * Threads    The owner thread of the core.
 * Limits     One entry a block (blocks.h); nothing is allocated after creation. Gateways are told
 *            of its pages one by one, so they need not know how large a worker's blocks are.
 * Exactness  An entry is named by its tenant, the identity of the entry before it and its tokens,
 *            and all three are compared on a hit: a hash collision cannot give foreign pages. The
 *            hash is keyed, so collisions cannot be built to slow the cache down either. (The
 *            chain of page hashes is vLLM's idea; identities in place of hashes make it exact.)
 */
#ifndef ENGINE_CORE_PREFIX_H
#define ENGINE_CORE_PREFIX_H

#include "engine/base/hash.h"
#include "engine/core/blocks.h"
#include "engine/core/cachelog.h"

typedef struct prefix prefix;

/* Where a sequence stands in the cache: after its first `pages` pages, whole blocks. Zero: at the
 * start. */
typedef struct {
    uint64_t identity; /* of the last block's entry; 0 at the start */
    uint64_t name;     /* of the last page, as gateways know it (pagename.h) */
    uint32_t pages;
} prefix_chain;

uint64_t prefix_bytes(uint32_t pages);
MUST_USE status prefix_create(arena *a, blocks *b, uint32_t pages, hash_key key, prefix **out);

/* Walks the leading full blocks of tokens[16 * pages_max], takes a reference to each page found and
 * writes its id. Returns how many; `chain` stands behind them. */
uint32_t prefix_find(prefix *p, uint64_t salt, const int32_t *tokens, uint32_t pages_max,
                     uint32_t *ids_out, prefix_chain *chain);

/* The block that begins with `page`, held by the caller, is computed and final for tokens[16 *
 * block_pages], the tokens after `chain`. It becomes findable, unless another already is for the
 * same tokens. `chain` moves past it. */
void prefix_add(prefix *p, uint64_t salt, prefix_chain *chain, const int32_t *tokens,
                uint32_t page);

/* As blocks_take, and forgets what the blocks held. */
MUST_USE bool prefix_take(prefix *p, uint32_t count, uint32_t *ids_out);

/* The pages that can be found. */
uint32_t prefix_count(const prefix *p);

/* What has changed, for gateways. */
cachelog *prefix_log(prefix *p);

/* Aborts when an invariant is broken. Slow. */
void prefix_validate(const prefix *p);

#endif
