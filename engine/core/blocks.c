/* blocks.c -- the pool of KV pages.
 *
 * Free pages form one doubly linked list. Pages without content go to its front, pages that the
 * prefix cache can find to its back, and the front is handed out first: so content is forgotten
 * last, the longest unused first, without a second list. */
#include "engine/core/blocks.h"

#include "engine/base/check.h"

enum { BLOCKS_NONE = UINT32_MAX };

typedef struct {
    uint32_t references;
    uint32_t pins;
    uint32_t next, previous; /* in the free list */
    bool cached;
} blocks_page;

struct blocks {
    blocks_page *pages; /* [total] */
    uint32_t first, last;
    blocks_counts count;
};

uint64_t blocks_bytes(uint32_t pages) {
    CHECK(pages > 0);
    return sizeof(blocks) + (uint64_t)pages * sizeof(blocks_page) + 128;
}

static bool blocks_page_is_free(const blocks_page *p) {
    return p->references == 0 && p->pins == 0;
}

static void blocks_link(blocks *b, uint32_t page) {
    blocks_page *p = &b->pages[page];
    CHECK(blocks_page_is_free(p));
    if (p->cached) {
        p->previous = b->last;
        p->next = BLOCKS_NONE;
    } else {
        p->previous = BLOCKS_NONE;
        p->next = b->first;
    }
    *(p->previous == BLOCKS_NONE ? &b->first : &b->pages[p->previous].next) = page;
    *(p->next == BLOCKS_NONE ? &b->last : &b->pages[p->next].previous) = page;
    b->count.free++;
    b->count.cached += p->cached;
    CHECK_LE(b->count.free, b->count.total);
}

static void blocks_unlink(blocks *b, uint32_t page) {
    blocks_page *p = &b->pages[page];
    CHECK(b->count.free > 0);
    CHECK(blocks_page_is_free(p));
    *(p->previous == BLOCKS_NONE ? &b->first : &b->pages[p->previous].next) = p->next;
    *(p->next == BLOCKS_NONE ? &b->last : &b->pages[p->next].previous) = p->previous;
    b->count.free--;
    b->count.cached -= p->cached;
}

status blocks_create(arena *a, uint32_t pages, blocks **out) {
    CHECK(pages > 0);
    blocks *b = ARENA_TAKE(a, 1, blocks);
    if (!b) {
        return STATUS_NOMEM;
    }
    b->pages = ARENA_TAKE(a, pages, blocks_page);
    if (!b->pages) {
        return STATUS_NOMEM;
    }
    b->first = b->last = BLOCKS_NONE;
    b->count.total = pages;
    for (uint32_t i = pages; i-- > 0;) {
        blocks_link(b, i);
    }
    CHECK_EQ(b->count.free, pages);
    *out = b;
    return STATUS_OK;
}

bool blocks_take(blocks *b, uint32_t count, uint32_t *ids_out) {
    CHECK_LE(b->count.free, b->count.total);
    if (b->count.free < count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = b->first;
        CHECK(page != BLOCKS_NONE);
        blocks_unlink(b, page);
        b->pages[page].references = 1;
        b->count.owned++;
        ids_out[i] = page;
    }
    return true;
}

void blocks_hold(blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    blocks_page *p = &b->pages[page];
    if (p->references == 0) {
        CHECK(p->cached); /* anything else has no content worth coming back to */
        if (p->pins == 0) {
            blocks_unlink(b, page);
        } else {
            b->count.quarantined--;
        }
        b->count.owned++;
    }
    p->references++;
}

void blocks_drop(blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    blocks_page *p = &b->pages[page];
    CHECK(p->references > 0);
    if (--p->references == 0) {
        b->count.owned--;
        if (p->pins == 0) {
            blocks_link(b, page);
        } else {
            b->count.quarantined++;
        }
    }
}

void blocks_pin(blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    /* Only a page that somebody holds can start to be touched. */
    CHECK(b->pages[page].references > 0);
    b->pages[page].pins++;
}

void blocks_unpin(blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    blocks_page *p = &b->pages[page];
    CHECK(p->pins > 0);
    if (--p->pins == 0 && p->references == 0) {
        b->count.quarantined--;
        blocks_link(b, page);
    }
}

void blocks_set_cached(blocks *b, uint32_t page, bool cached) {
    CHECK_LT(page, b->count.total);
    blocks_page *p = &b->pages[page];
    if (p->cached == cached) {
        return;
    }
    bool is_free = blocks_page_is_free(p);
    if (is_free) {
        blocks_unlink(b, page);
    }
    p->cached = cached;
    if (is_free) {
        blocks_link(b, page);
    }
}

bool blocks_is_cached(const blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    return b->pages[page].cached;
}

uint32_t blocks_references(const blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    return b->pages[page].references;
}

uint32_t blocks_pins(const blocks *b, uint32_t page) {
    CHECK_LT(page, b->count.total);
    return b->pages[page].pins;
}

uint32_t blocks_free_count(const blocks *b) {
    return b->count.free;
}

blocks_counts blocks_count(const blocks *b) {
    return b->count;
}

void blocks_validate(const blocks *b) {
    blocks_counts n = {0};
    for (uint32_t i = 0; i < b->count.total; i++) {
        const blocks_page *p = &b->pages[i];
        n.total++;
        n.owned += p->references > 0;
        n.quarantined += p->references == 0 && p->pins > 0;
        n.free += blocks_page_is_free(p);
        n.cached += blocks_page_is_free(p) && p->cached;
    }
    CHECK_EQ(n.owned, b->count.owned);
    CHECK_EQ(n.quarantined, b->count.quarantined);
    CHECK_EQ(n.free, b->count.free);
    CHECK_EQ(n.cached, b->count.cached);
    CHECK_EQ(n.free + n.owned + n.quarantined, b->count.total);
    uint32_t listed = 0;
    uint32_t previous = BLOCKS_NONE;
    for (uint32_t i = b->first; i != BLOCKS_NONE; i = b->pages[i].next) {
        CHECK_LT(i, b->count.total);
        CHECK(blocks_page_is_free(&b->pages[i]));
        CHECK_EQ(b->pages[i].previous, previous);
        CHECK_LE(++listed, b->count.total);
        previous = i;
    }
    CHECK_EQ(listed, b->count.free);
    CHECK_EQ(previous, b->last);
}
