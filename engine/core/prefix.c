/* prefix.c -- finds KV pages that were computed before for the same leading tokens. */
#include "engine/core/prefix.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/core/pagename.h"
#include "engine/core/planted.h"

/* What is hashed, without padding. */
typedef struct {
    uint64_t salt;
    uint64_t parent; /* identity of the entry before; 0: none */
    int32_t tokens[LIMIT_PAGE_TOKENS];
} prefix_name;

static_assert(sizeof(prefix_name) == 16 + 4 * LIMIT_PAGE_TOKENS, "hashed as bytes");

typedef struct {
    uint64_t identity; /* unique for ever; 0: the page cannot be found */
    uint64_t hash;
    prefix_name name;
} prefix_entry;

struct prefix {
    blocks *blocks;
    prefix_entry *entries; /* [pages] by page id */
    hash_table by_hash;    /* hash > page */
    cachelog log;
    hash_key key;
    uint64_t identity_next;
    uint32_t pages;
};

uint64_t prefix_bytes(uint32_t pages) {
    CHECK(pages > 0);
    /* A hash table is at most 3/4 full and a power of two: below 3 slots an entry. */
    return sizeof(prefix) + (uint64_t)pages * (sizeof(prefix_entry) + 3 * 17) + 4096 +
           cachelog_bytes(pages);
}

status prefix_create(arena *a, blocks *b, uint32_t pages, hash_key key, prefix **out) {
    CHECK_EQ(blocks_count(b).total, pages);
    prefix *p = ARENA_TAKE(a, 1, prefix);
    if (!p) {
        return STATUS_NOMEM;
    }
    p->entries = ARENA_TAKE(a, pages, prefix_entry);
    if (!p->entries) {
        return STATUS_NOMEM;
    }
    TRY(hash_open(&p->by_hash, a, pages, key.k0 ^ key.k1));
    TRY(cachelog_open(&p->log, a, pages, key.k0));
    p->blocks = b;
    p->key = key;
    p->pages = pages;
    p->identity_next = 1;
    *out = p;
    return STATUS_OK;
}

static prefix_name prefix_make_name(uint64_t salt, uint64_t parent, const int32_t *tokens) {
    prefix_name name = {.salt = salt, .parent = parent};
    memcpy(name.tokens, tokens, sizeof name.tokens);
    return name;
}

/* The entry of that hash, or NULL. Whether it has that name is for the caller to see. */
static prefix_entry *prefix_lookup(const prefix *p, uint64_t hash) {
    uint64_t page;
    if (!hash_get(&p->by_hash, hash, &page)) {
        return NULL;
    }
    CHECK_LT(page, p->pages);
    CHECK_EQ(p->entries[page].hash, hash);
    return &p->entries[page];
}

static void prefix_forget(prefix *p, uint32_t page) {
    prefix_entry *e = &p->entries[page];
    if (e->identity == 0) {
        return;
    }
    uint64_t found = 0;
    CHECK(hash_delete(&p->by_hash, e->hash, &found));
    CHECK_EQ(found, page);
    e->identity = 0;
    cachelog_lose(&p->log, page);
    blocks_set_cached(p->blocks, page, false);
}

uint32_t prefix_find(prefix *p, uint64_t salt, const int32_t *tokens, uint32_t pages_max,
                     uint32_t *ids_out, prefix_chain *chain) {
    *chain = (prefix_chain){0};
    while (chain->pages < pages_max) {
        const int32_t *own = tokens + (size_t)chain->pages * LIMIT_PAGE_TOKENS;
        prefix_name name = prefix_make_name(salt, chain->identity, own);
        const prefix_entry *e = prefix_lookup(p, hash_bytes(p->key, &name, sizeof name));
        if (!e || memcmp(&e->name, &name, sizeof name) != 0) {
            break;
        }
        uint32_t page = (uint32_t)(e - p->entries);
        CHECK(e->identity != 0);
        if (!PLANTED(PREFIX_REFERENCE) || blocks_references(p->blocks, page) == 0) {
            blocks_hold(p->blocks, page);
        }
        ids_out[chain->pages] = page;
        chain->identity = e->identity;
        chain->name = p->log.names[page];
        chain->pages++;
    }
    CHECK_LE(chain->pages, pages_max);
    return chain->pages;
}

void prefix_add(prefix *p, uint64_t salt, prefix_chain *chain, const int32_t *tokens,
                uint32_t page) {
    CHECK_LT(page, p->pages);
    CHECK(blocks_references(p->blocks, page) > 0);
    prefix_name name = prefix_make_name(salt, chain->identity, tokens);
    uint64_t hash = hash_bytes(p->key, &name, sizeof name);
    const prefix_entry *found = prefix_lookup(p, hash);
    chain->pages++;
    chain->name = pagename_next(chain->name, salt, tokens);
    if (found) {
        /* The same tokens, computed twice: the first page stays the findable one. (Or a collision:
         * then what follows hangs below an identity that no walk reaches, which is only a miss.) */
        bool same = memcmp(&found->name, &name, sizeof name) == 0;
        chain->identity = same ? found->identity : p->identity_next++;
        return;
    }
    prefix_entry *e = &p->entries[page];
    if (e->identity != 0) {
        prefix_forget(p, page);
    }
    *e = (prefix_entry){.identity = p->identity_next++, .hash = hash, .name = name};
    CHECK(hash_put(&p->by_hash, hash, page));
    cachelog_gain(&p->log, page, chain->name);
    blocks_set_cached(p->blocks, page, true);
    chain->identity = e->identity;
}

bool prefix_take(prefix *p, uint32_t count, uint32_t *ids_out) {
    if (!blocks_take(p->blocks, count, ids_out)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        prefix_forget(p, ids_out[i]);
        CHECK(!blocks_is_cached(p->blocks, ids_out[i]));
    }
    return true;
}

uint32_t prefix_count(const prefix *p) {
    return p->by_hash.count;
}

cachelog *prefix_log(prefix *p) {
    return &p->log;
}

void prefix_validate(const prefix *p) {
    uint32_t known = 0;
    for (uint32_t i = 0; i < p->pages; i++) {
        const prefix_entry *e = &p->entries[i];
        CHECK_EQ(e->identity != 0, blocks_is_cached(p->blocks, i));
        CHECK_EQ(e->identity != 0, p->log.names[i] != 0);
        if (e->identity != 0) {
            CHECK(prefix_lookup(p, e->hash) == e);
            CHECK_LT(e->identity, p->identity_next);
            known++;
        }
    }
    CHECK_EQ(known, p->by_hash.count);
}
