/* prefix.c -- finds KV pages that were computed before for the same leading tokens. */
#include "engine/core/prefix.h"

#include <stddef.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/core/pagename.h"
#include "engine/core/planted.h"

/* What is hashed, without padding, as far as the block goes. */
typedef struct {
    uint64_t salt;
    uint64_t parent; /* identity of the entry before; 0: none */
    int32_t tokens[LIMIT_BLOCK_PAGES * LIMIT_PAGE_TOKENS]; /* as many as a block has */
} prefix_name;

static_assert(offsetof(prefix_name, tokens) == 16, "hashed as bytes");

/* A block. */
typedef struct {
    uint64_t identity; /* unique for ever; 0: it cannot be found */
    uint64_t hash;
    uint64_t salt, parent;
} prefix_entry;

struct prefix {
    blocks *blocks;
    prefix_entry *entries; /* [blocks] */
    int32_t *tokens;       /* [blocks, block_tokens] of entries */
    hash_table by_hash;    /* hash > block */
    cachelog log;
    hash_key key;
    uint64_t identity_next;
    uint32_t pages, count; /* of the pool: pages, blocks */
    uint32_t block_pages, block_tokens;
};

uint64_t prefix_bytes(uint32_t pages) {
    CHECK(pages > 0);
    /* A hash table is at most 3/4 full and a power of two: below 3 slots an entry. */
    return sizeof(prefix) + 4096 + cachelog_bytes(pages) +
           (uint64_t)pages * (sizeof(prefix_entry) + LIMIT_PAGE_TOKENS * sizeof(int32_t) + 3 * 17);
}

status prefix_create(arena *a, blocks *b, uint32_t pages, hash_key key, prefix **out) {
    CHECK_EQ(blocks_count(b).total, pages);
    prefix *p = ARENA_TAKE(a, 1, prefix);
    if (!p) {
        return STATUS_NOMEM;
    }
    p->block_pages = blocks_block_pages(b);
    p->block_tokens = p->block_pages * LIMIT_PAGE_TOKENS;
    p->count = pages / p->block_pages;
    CHECK(p->block_pages > 0 && p->block_pages <= LIMIT_BLOCK_PAGES);
    p->entries = ARENA_TAKE(a, p->count, prefix_entry);
    p->tokens = ARENA_TAKE(a, (size_t)pages * LIMIT_PAGE_TOKENS, int32_t);
    if (!p->entries || !p->tokens) {
        return STATUS_NOMEM;
    }
    TRY(hash_open(&p->by_hash, a, p->count, key.k0 ^ key.k1));
    TRY(cachelog_open(&p->log, a, pages, key.k0));
    p->blocks = b;
    p->key = key;
    p->pages = pages;
    p->identity_next = 1;
    *out = p;
    return STATUS_OK;
}

static uint64_t prefix_hash(const prefix *p, uint64_t salt, uint64_t parent,
                            const int32_t *tokens) {
    size_t bytes = p->block_tokens * sizeof *tokens;
    prefix_name name;
    name.salt = salt;
    name.parent = parent;
    memcpy(name.tokens, tokens, bytes);
    return hash_bytes(p->key, &name, offsetof(prefix_name, tokens) + bytes);
}

/* The entry of that hash, or NULL. Whether it is of those tokens is for the caller to see. */
static prefix_entry *prefix_lookup(const prefix *p, uint64_t hash) {
    uint64_t block;
    if (!hash_get(&p->by_hash, hash, &block)) {
        return NULL;
    }
    CHECK_LT(block, p->count);
    CHECK_EQ(p->entries[block].hash, hash);
    return &p->entries[block];
}

static bool prefix_is(const prefix *p, const prefix_entry *e, uint64_t salt, uint64_t parent,
                      const int32_t *tokens) {
    const int32_t *own = p->tokens + (size_t)(e - p->entries) * p->block_tokens;
    return e->salt == salt && e->parent == parent &&
           memcmp(own, tokens, p->block_tokens * sizeof *own) == 0;
}

static void prefix_forget(prefix *p, uint32_t block) {
    prefix_entry *e = &p->entries[block];
    if (e->identity == 0) {
        return;
    }
    uint64_t found = 0;
    CHECK(hash_delete(&p->by_hash, e->hash, &found));
    CHECK_EQ(found, block);
    e->identity = 0;
    for (uint32_t i = 0; i < p->block_pages; i++) {
        cachelog_lose(&p->log, block * p->block_pages + i);
    }
    blocks_set_cached(p->blocks, block * p->block_pages, false);
}

uint32_t prefix_find(prefix *p, uint64_t salt, const int32_t *tokens, uint32_t pages_max,
                     uint32_t *ids_out, prefix_chain *chain) {
    *chain = (prefix_chain){0};
    while (pages_max - chain->pages >= p->block_pages) {
        const int32_t *own = tokens + (size_t)chain->pages * LIMIT_PAGE_TOKENS;
        const prefix_entry *e = prefix_lookup(p, prefix_hash(p, salt, chain->identity, own));
        if (!e || !prefix_is(p, e, salt, chain->identity, own)) {
            break;
        }
        uint32_t page = (uint32_t)(e - p->entries) * p->block_pages;
        CHECK(e->identity != 0);
        bool hold = !PLANTED(PREFIX_REFERENCE) || blocks_references(p->blocks, page) == 0;
        for (uint32_t i = 0; i < p->block_pages; i++) {
            if (hold) {
                blocks_hold(p->blocks, page + i);
            }
            ids_out[chain->pages++] = page + i;
        }
        chain->identity = e->identity;
        chain->name = p->log.names[page + p->block_pages - 1];
    }
    CHECK_LE(chain->pages, pages_max);
    return chain->pages;
}

void prefix_add(prefix *p, uint64_t salt, prefix_chain *chain, const int32_t *tokens,
                uint32_t page) {
    uint32_t block = page / p->block_pages;
    CHECK_LT(page, p->pages);
    CHECK_EQ(page % p->block_pages, 0);
    CHECK(blocks_references(p->blocks, page) > 0);
    uint64_t parent = chain->identity, hash = prefix_hash(p, salt, parent, tokens);
    const prefix_entry *found = prefix_lookup(p, hash);
    uint64_t names[LIMIT_BLOCK_PAGES];
    for (uint32_t i = 0; i < p->block_pages; i++) {
        chain->name = names[i] = pagename_next(chain->name, salt, tokens + i * LIMIT_PAGE_TOKENS);
    }
    chain->pages += p->block_pages;
    if (found) {
        /* The same tokens, computed twice: the first block stays the findable one. (Or a collision:
         * then what follows hangs below an identity that no walk reaches, which is only a miss.) */
        bool same = prefix_is(p, found, salt, parent, tokens);
        chain->identity = same ? found->identity : p->identity_next++;
        return;
    }
    prefix_entry *e = &p->entries[block];
    if (e->identity != 0) {
        prefix_forget(p, block);
    }
    *e = (prefix_entry){p->identity_next++, hash, salt, parent};
    memcpy(p->tokens + (size_t)block * p->block_tokens, tokens, p->block_tokens * sizeof *tokens);
    CHECK(hash_put(&p->by_hash, hash, block));
    for (uint32_t i = 0; i < p->block_pages; i++) {
        cachelog_gain(&p->log, page + i, names[i]);
    }
    blocks_set_cached(p->blocks, page, true);
    chain->identity = e->identity;
}

bool prefix_take(prefix *p, uint32_t count, uint32_t *ids_out) {
    if (!blocks_take(p->blocks, count, ids_out)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i += p->block_pages) {
        prefix_forget(p, ids_out[i] / p->block_pages);
        CHECK(!blocks_is_cached(p->blocks, ids_out[i]));
    }
    return true;
}

uint32_t prefix_count(const prefix *p) {
    return p->by_hash.count * p->block_pages;
}

cachelog *prefix_log(prefix *p) {
    return &p->log;
}

void prefix_validate(const prefix *p) {
    uint32_t known = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        const prefix_entry *e = &p->entries[i];
        CHECK_EQ(e->identity != 0, blocks_is_cached(p->blocks, i * p->block_pages));
        for (uint32_t k = 0; k < p->block_pages; k++) {
            CHECK_EQ(e->identity != 0, p->log.names[i * p->block_pages + k] != 0);
        }
        if (e->identity != 0) {
            CHECK(prefix_lookup(p, e->hash) == e);
            CHECK_LT(e->identity, p->identity_next);
            known++;
        }
    }
    CHECK_EQ(known, p->by_hash.count);
}
