/* hub_test.c -- who is let in, under which number, and what the others hear; the test is the
 * members, over loopback. */
#define _GNU_SOURCE
#include "server/control/hub.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/core/hello.h"
#include "engine/net/member.h"

enum { WAIT_MS = 20000 };

/* A worker or a gateway, as far as a hub sees one. */
typedef struct {
    mesh *mesh;
    member *member;
    message_hello hello;
    bool refused;
    diag why;
    bool told; /* has a roster */
} node;

static clusterkey key_of(char c) {
    clusterkey k = {.given = true};
    memset(k.key, c, sizeof k.key);
    return k;
}

static hub *start_at(hostport at, uint32_t reserved) {
    hub_options o = {.address = at, .key = key_of('k'), .reserved = reserved};
    hub *h;
    diag d = {.text = ""};
    log_setup(LOG_OFF, false, "test");
    cr_assert_eq(hub_start(&o, &h, &d), STATUS_OK, "%s", d.text);
    return h;
}

static hub *start(uint32_t reserved) {
    hostport at;
    diag d;
    cr_assert_eq(hostport_parse(str_from("127.0.0.1:0"), true, &at, &d), STATUS_OK);
    return start_at(at, reserved);
}

static message_hello worker_hello(uint32_t worker, uint64_t epoch) {
    return (message_hello){.version = MESSAGE_VERSION,
                           .worker = worker,
                           .epoch = epoch,
                           .roles = MESSAGE_ROLE_DECODE,
                           .model_hash = 0x77,
                           .vocab = 320,
                           .context_tokens = 512,
                           .layers = 2,
                           .block_tokens = 16,
                           .kv_layer_page_bytes = 4096,
                           .pages = 99,
                           .numerics = str_from("cpu-1"),
                           .kv_layout = str_from("kv:f16"),
                           .address = str_from("10.0.0.9:7001")};
}

static void give_hello(void *self, message_hello *out) {
    *out = ((node *)self)->hello;
}

static void join_with(node *n, const hub *h, handshake_kind kind, const message_hello *hello,
                      char key, uint16_t version) {
    diag d;
    *n = (node){.hello = *hello};
    mesh_options mo = {.self = {kind, hello->roles, hello->worker, hello->epoch},
                       .version_min = version,
                       .version_max = version};
    memset(mo.key, key, sizeof mo.key);
    cr_assert_eq(mesh_open(&mo, &n->mesh, &d), STATUS_OK);
    member_options me = {
        .hubs = {{hub_address(h)}, 1}, .mesh = n->mesh, .hello = give_hello, .self = n};
    cr_assert_eq(member_open(&me, &n->member, &d), STATUS_OK);
}

static void join(node *n, const hub *h, uint32_t worker, uint64_t epoch) {
    message_hello hello = worker_hello(worker, epoch);
    join_with(n, h, HANDSHAKE_WORKER, &hello, 'k', MESSAGE_VERSION);
}

static void leave(node *n) {
    member_close(n->member);
    mesh_close(n->mesh);
}

static void turn(node *n) {
    mesh_event e;
    int64_t now = clock_now_us();
    while (mesh_next(n->mesh, now, &e)) {
        cr_assert(e.tag == MEMBER_TAG);
        member_event(n->member, &e, now);
    }
    member_news news;
    while ((news = member_poll(n->member, now, &n->why)) != MEMBER_NOTHING) {
        n->refused = n->refused || news == MEMBER_REFUSED;
        n->told = n->told || news == MEMBER_ROSTER;
    }
}

/* The entry of that life in what the node knows, or NULL. */
static const member_entry *known(const node *n, uint64_t epoch) {
    uint32_t count;
    const member_entry *list = member_roster(n->member, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (list[i].epoch == epoch) {
            return &list[i];
        }
    }
    return NULL;
}

/* As the worker does: takes the number it is given, and says so. */
static bool settle(node *n) {
    turn(n);
    const member_entry *mine = known(n, n->hello.epoch);
    if (mine && n->hello.worker != mine->worker) {
        n->hello.worker = mine->worker;
        member_greet(n->member);
        turn(n);
    }
    return mine != NULL;
}

#define UNTIL(condition, ...)                                    \
    do {                                                         \
        int64_t end_ = clock_now_us() + WAIT_MS * INT64_C(1000); \
        while (!(condition)) {                                   \
            cr_assert_lt(clock_now_us(), end_, __VA_ARGS__);     \
            usleep(2000);                                        \
        }                                                        \
    } while (0)

static void say_load(void *self, message *out) {
    static const message_latency one = {5000, 700};
    node *n = self;
    out->type = MESSAGE_LOAD;
    out->load = (message_load){
        .requests = n->hello.epoch, .held = 2, .latencies_count = 1, .latencies = &one};
}

static void say_running(void *self, message *out) {
    (void)self;
    out->heartbeat = (message_heartbeat){.pages_total = 64, .pages_free = 60, .running = 5};
}

/* A member that tells something of itself. */
static void join_telling(node *n, const hub *h, handshake_kind kind, message_hello hello,
                         void (*beat)(void *, message *)) {
    diag d;
    join_with(n, h, kind, &hello, 'k', MESSAGE_VERSION);
    member_close(n->member);
    member_options me = {.hubs = {{hub_address(h)}, 1},
                         .mesh = n->mesh,
                         .hello = give_hello,
                         .beat = beat,
                         .self = n};
    cr_assert_eq(member_open(&me, &n->member, &d), STATUS_OK);
}

Test(hub, hears_how_loaded_everybody_is) {
    hub *h = start(2);
    node a, gateway;
    hub_view v;
    message_hello hello = {.version = MESSAGE_VERSION, .worker = MESSAGE_NO_WORKER, .epoch = 9};
    hello.model_hash = 0x77;
    join_telling(&a, h, HANDSHAKE_WORKER, worker_hello(1, 1001), say_running);
    join_telling(&gateway, h, HANDSHAKE_GATEWAY, hello, say_load);
    uint32_t latencies = 0;
    UNTIL((settle(&a), turn(&gateway), hub_look(h, &v), latencies += v.latencies_count,
           v.workers[1].beat.running == 5 && v.held == 2),
          "both are heard");
    cr_assert(v.workers[1].joined);
    cr_assert_eq(v.workers[1].roles, MESSAGE_ROLE_DECODE);
    cr_assert_eq(v.gateways, 1);
    gateway.hello.epoch = 30; /* its sum from now on */
    UNTIL((turn(&gateway), hub_look(h, &v), latencies += v.latencies_count,
           v.counters.requests == 21),
          "what has come since");
    cr_assert_geq(latencies, 2, "each is seen once");
    leave(&gateway);
    UNTIL((settle(&a), hub_look(h, &v), v.gateways == 0), "it is gone");
    cr_assert_eq(v.held, 0);
    cr_assert_eq(v.counters.requests, 21, "and what came there came");
    leave(&a);
    hub_stop(h);
}

Test(hub, passes_orders_on_and_only_to_members) {
    hub *h = start(0);
    node a;
    hub_view v;
    join(&a, h, MESSAGE_NO_WORKER, 1001);
    UNTIL((settle(&a), hub_look(h, &v), v.workers[0].joined), "it is there");
    message role = {.type = MESSAGE_ROLE, .role = {MESSAGE_ROLE_PREFILL, 77}};
    message drain = {.type = MESSAGE_DRAIN, .drain = {78, 5000}};
    cr_assert_not(hub_tell(h, 1, &role), "nobody has that number");
    cr_assert(hub_tell(h, 0, &role));
    cr_assert(hub_tell(h, 0, &drain));
    message got[2];
    uint32_t count = 0;
    while (count < 2) {
        mesh_event e;
        diag why;
        int64_t now = clock_now_us();
        while (mesh_next(a.mesh, now, &e)) {
            member_event(a.member, &e, now);
        }
        if (member_poll(a.member, now, &why) == MEMBER_ORDER) {
            got[count++] = *member_order(a.member);
        }
    }
    cr_assert(got[0].type == MESSAGE_ROLE && got[0].role.token == 77 &&
              got[0].role.roles == MESSAGE_ROLE_PREFILL);
    cr_assert(got[1].type == MESSAGE_DRAIN && got[1].drain.token == 78 &&
              got[1].drain.limit_ms == 5000);
    leave(&a);
    hub_stop(h);
}

Test(hub, members_go_to_the_one_that_is_open) {
    hub *first = start(0), *second = start(0);
    node a;
    diag d;
    hub_view v;
    join(&a, first, MESSAGE_NO_WORKER, 1001);
    member_close(a.member);
    member_options me = {.hubs = {{hub_address(first), hub_address(second)}, 2},
                         .mesh = a.mesh,
                         .hello = give_hello,
                         .self = &a};
    cr_assert_eq(member_open(&me, &a.member, &d), STATUS_OK);
    hub_set_open(first, false);
    UNTIL((settle(&a), hub_look(second, &v), v.workers[0].joined), "it found the second");
    hub_set_open(first, true);
    hub_set_open(second, false);
    UNTIL((settle(&a), hub_look(first, &v), v.workers[0].joined), "and the first");
    cr_assert_not(a.refused, "nobody was told off");
    cr_assert_not(member_holds(a.member));
    hub_set_holds(first, true);
    UNTIL((settle(&a), member_holds(a.member)), "the roster tells");
    leave(&a);
    hub_stop(first);
    hub_stop(second);
}

Test(hub, numbers_workers_and_tells_all) {
    hub *h = start(2);
    node a, b, local, gateway;
    message_hello hello = {.version = MESSAGE_VERSION, .worker = MESSAGE_NO_WORKER, .epoch = 9};
    hello.model_hash = 0x77;
    join(&a, h, MESSAGE_NO_WORKER, 1001);
    join(&b, h, MESSAGE_NO_WORKER, 1002);
    join(&local, h, 1, 1003);
    join_with(&gateway, h, HANDSHAKE_GATEWAY, &hello, 'k', MESSAGE_VERSION);
    UNTIL(settle(&a) && settle(&b) && settle(&local), "all are numbered");
    UNTIL((turn(&gateway), known(&gateway, 1001) && known(&gateway, 1002) && known(&gateway, 1003)),
          "the gateway knows all");
    cr_assert_eq(known(&gateway, 1003)->worker, 1, "it had that number already");
    cr_assert_geq(known(&gateway, 1001)->worker, 2);
    cr_assert_geq(known(&gateway, 1002)->worker, 2);
    cr_assert_neq(known(&gateway, 1001)->worker, known(&gateway, 1002)->worker);
    char text[HOSTPORT_TEXT_BYTES];
    hostport_print(&known(&gateway, 1001)->address, text);
    cr_assert_str_eq(text, "10.0.0.9:7001");
    cr_assert_eq(known(&gateway, 1001)->roles, MESSAGE_ROLE_DECODE);
    leave(&a);
    UNTIL((turn(&gateway), !known(&gateway, 1001)), "one that leaves is not named any more");
    leave(&b);
    leave(&local);
    leave(&gateway);
    hub_stop(h);
}

/* One difference each. */
static void make_wrong(message_hello *m, size_t i) {
    m->version += i == 0;
    m->model_hash ^= i == 1;
    m->vocab += i == 2;
    m->context_tokens += i == 3;
    m->layers += i == 4;
    m->block_tokens += i == 5;
    m->kv_layer_page_bytes *= i == 6 ? 2 : 1;
    m->kv_layout = i == 7 ? str_from("kv:f32") : m->kv_layout;
    m->numerics = i == 8 ? str_from("cuda-9.0") : m->numerics;
    m->roles = i == 9 ? 0 : m->roles;
    m->address = i == 10 ? str_from("") : i == 11 ? str_from("a.name:80") : m->address;
    m->worker = i == 12 ? 0 : m->worker;
    m->epoch = i == 12 ? 4999 : m->epoch;
}

Test(hub, refuses_each_mismatch_by_name_and_within_a_second) {
    static const char *const reasons[] = {
        "protocol version differs", "not the same model", "vocabulary differs", "context differs",
        "layers differs",           "tokens a block",     "bytes a layer page", "KV layout differs",
        "numerics class differs",   "a role and an",      "a role and an",      "a role and an",
        "older than the one known", "keys differ",        "version differs",    "version differs"};
    hub *h = start(1);
    node good;
    join(&good, h, 0, 5000);
    UNTIL(settle(&good), "the first one is in");
    usleep(HUB_GRACE_US); /* what is new is judged at once from now on */
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        node n;
        message_hello hello = worker_hello(MESSAGE_NO_WORKER, 6000 + i);
        make_wrong(&hello, i);
        int64_t begun = clock_now_us();
        join_with(&n, h, HANDSHAKE_WORKER, &hello, i == 13 ? 'x' : 'k',
                  (uint16_t)(i == 14   ? MESSAGE_VERSION_MIN - 1
                             : i == 15 ? MESSAGE_VERSION + 1
                                       : MESSAGE_VERSION));
        UNTIL((turn(&n), n.refused), "case %zu is not refused", i);
        cr_assert(str_find(str_from(n.why.text), str_from(reasons[i]), 0) != SIZE_MAX,
                  "case %zu: %s", i, n.why.text);
        cr_assert_not(n.told, "case %zu", i);
        /* Ten times the bound of a second, as every real time in a test. */
        cr_assert_lt(clock_now_us() - begun, 10000000, "case %zu", i);
        leave(&n);
    }
    turn(&good);
    uint32_t count;
    (void)member_roster(good.member, &count);
    cr_assert_eq(count, 1, "nobody else got in");
    leave(&good);
    hub_stop(h);
}

Test(hub, a_later_life_takes_its_number_over) {
    hub *h = start(1);
    node first, second;
    join(&first, h, 0, 5000);
    UNTIL(settle(&first), "it is in");
    join(&second, h, 0, 5001);
    UNTIL(settle(&second), "its next life is in");
    cr_assert_null(known(&second, 5000));
    cr_assert_eq(known(&second, 5001)->worker, 0);
    leave(&first);
    leave(&second);
    hub_stop(h);
}

Test(hub, numbers_survive_its_restart) {
    hub *h = start(0);
    node n[3], fresh;
    for (uint32_t i = 0; i < 3; i++) {
        join(&n[i], h, MESSAGE_NO_WORKER, 1000 + i);
        UNTIL(settle(&n[i]), "it is in");
    }
    UNTIL((turn(&n[1]), turn(&n[2]), known(&n[1], 1002) && known(&n[2], 1001)), "they know all");
    uint32_t before[3];
    for (uint32_t i = 0; i < 3; i++) {
        before[i] = n[i].hello.worker;
    }
    leave(&n[0]); /* its number may go to another now */
    hostport at = hub_address(h);
    hub_stop(h);
    for (int i = 0; i < 50; i++) {
        turn(&n[1]);
        turn(&n[2]);
        usleep(1000);
    }
    cr_assert(known(&n[1], 1002) && known(&n[1], 1001), "what was known stays known without it");
    h = start_at(at, 0);
    join(&fresh, h, MESSAGE_NO_WORKER, 2000); /* asks first, and is not to take what is theirs */
    UNTIL((settle(&n[1]), settle(&n[2]),
           settle(&fresh) && known(&fresh, 1001) && known(&fresh, 1002)),
          "all are in again");
    cr_assert_eq(n[1].hello.worker, before[1]);
    cr_assert_eq(n[2].hello.worker, before[2]);
    cr_assert(fresh.hello.worker != before[1] && fresh.hello.worker != before[2]);
    for (int i = 1; i < 3; i++) {
        leave(&n[i]);
    }
    leave(&fresh);
    hub_stop(h);
}

Test(hub, one_whose_number_has_gone_to_another_gets_a_new_one) {
    hub *h = start(0);
    node holder, late;
    join(&holder, h, 7, 1000);
    UNTIL(settle(&holder), "it is in");
    cr_assert_eq(holder.hello.worker, 7);
    join(&late, h, 7, 900); /* had it at a hub that is no more */
    UNTIL(settle(&late), "it is in");
    cr_assert_neq(late.hello.worker, 7);
    cr_assert_eq(known(&late, 1000)->worker, 7);
    leave(&holder);
    leave(&late);
    hub_stop(h);
}

Test(hub, strangers_and_garbage_after_the_handshake_do_no_harm) {
    hub *h = start(0);
    node good;
    mesh_options mo = {.self = {HANDSHAKE_WORKER, 2, UINT32_MAX, 4000},
                       .version_min = MESSAGE_VERSION,
                       .version_max = MESSAGE_VERSION};
    memset(mo.key, 'k', sizeof mo.key);
    for (int kind = 0; kind < 3; kind++) {
        mesh *m;
        mesh_event e = {.fd = -1};
        diag d;
        wire *w;
        cr_assert_eq(mesh_open(&mo, &m, &d), STATUS_OK);
        mesh_call call = {.address = hub_address(h),
                          .purpose = kind == 2 ? HANDSHAKE_PUSH : HANDSHAKE_CONTROL};
        cr_assert_eq(mesh_dial(m, &call, clock_now_us()), STATUS_OK);
        UNTIL(mesh_next(m, clock_now_us(), &e), "connected");
        cr_assert_eq(e.type, MESH_CONNECTED);
        cr_assert_eq(wire_open_waiting(1 << 20, &w), STATUS_OK);
        cr_assert_eq(wire_attach(w, e.fd, &e.keys), STATUS_OK);
        if (kind == 0) { /* sealed, but no message */
            cr_assert_eq(wire_send(w, str_from("\377\377\377"), -1), STATUS_OK);
        } else { /* not even sealed */
            cr_assert_eq(write(e.fd, "garbage garbage garbage", 23), 23);
        }
        (void)wire_flush(w);
        str bytes;
        int fd;
        wire_result r;
        do { /* perhaps a goodbye, then the end */
            struct pollfd p = {e.fd, POLLIN, 0};
            cr_assert_eq(poll(&p, 1, WAIT_MS), 1);
            r = wire_receive(w, &bytes, &fd);
        } while (r != WIRE_CLOSED);
        wire_close(w);
        mesh_close(m);
    }
    join(&good, h, MESSAGE_NO_WORKER, 5000);
    UNTIL(settle(&good), "it goes on");
    leave(&good);
    hub_stop(h);
}
