/* kvt.c -- what all transports share: posted receives in order, and judging what arrives. */
#include "kvtransfer/kvt.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kvtransfer/kvtplanted.h"

status kvt_begin(kvt *k, const kvt_transport *t, const kvt_pool *pool, uint64_t generation,
                 bool receiver) {
    k->transport = t;
    k->pool = *pool;
    k->device = NULL;
    k->packer = NULL;
    k->stage = NULL;
    k->stage_bytes = 0;
    k->generation = generation;
    k->failed = false;
    k->posted = NULL;
    k->posted_first = 0;
    k->posted_count = 0;
    if (receiver) {
        k->posted = mem_alloc(KVT_JOBS_MAX, sizeof *k->posted);
        if (!k->posted) {
            return STATUS_NOMEM;
        }
    }
    return STATUS_OK;
}

void kvt_close(kvt *k) {
    if (k) {
        mem_free(k->posted);
        mem_free(k->stage);
        k->posted = NULL;
        k->stage = NULL;
        k->transport->close(k);
    }
}

void kvt_use_device(kvt *k, const kvt_device *d) {
    k->device = d;
}

void kvt_use_packer(kvt *k, const kvt_packer *p) {
    k->packer = p;
}

/* Room for the job's bytes. Jobs are as large as the transfer's groups: it is made once or twice.
 */
static bool stage_fits(kvt *k, const kvt_job *job) {
    uint64_t bytes = kvt_job_bytes(k, job);
    if (!k->device || bytes <= k->stage_bytes) {
        return true;
    }
    mem_free(k->stage);
    k->stage = mem_alloc(bytes, 1);
    k->stage_bytes = k->stage ? bytes : 0;
    return k->stage != NULL;
}

bool kvt_load(kvt *k, const kvt_job *job) {
    return !k->device || job->junk ||
           (stage_fits(k, job) && k->device->load(k->pool.context, job, k->stage));
}

uint8_t *kvt_run(const kvt *k, const kvt_job *job, uint32_t layer, uint32_t page) {
    if (k->device) {
        return k->stage + ((uint64_t)layer * job->pages_count + page) * k->pool.layer_page_bytes;
    }
    return k->pool.page(k->pool.context, job->layer_first + layer, job->pages[page]);
}

bool kvt_failed(const kvt *k) {
    return k->failed;
}

const char *kvt_name(const kvt *k) {
    return k->transport->name;
}

uint64_t kvt_job_bytes(const kvt *k, const kvt_job *job) {
    return job->junk ? 0 : (uint64_t)job->layers * job->pages_count * k->pool.layer_page_bytes;
}

frame kvt_job_frame(const kvt *k, const kvt_job *job) {
    frame f = {.junk = job->junk,
               .generation = k->generation,
               .request = job->request,
               .attempt = job->attempt,
               .group = job->group,
               .sequence = job->sequence,
               .payload_bytes = kvt_job_bytes(k, job),
               .checksum = 0};
    return f;
}

kvt_outcome kvt_judge(const kvt *k, const kvt_job *job, const frame *f) {
    frame want = kvt_job_frame(k, job);
    if ((f->generation != want.generation && !KVTPLANTED(GENERATION_IGNORED)) ||
        f->request != want.request || f->attempt != want.attempt || f->group != want.group ||
        f->sequence != want.sequence) {
        return KVT_DAMAGED;
    }
    if (f->junk) {
        return f->payload_bytes == 0 ? KVT_JUNK : KVT_DAMAGED;
    }
    return f->payload_bytes == want.payload_bytes ? KVT_ARRIVED : KVT_DAMAGED;
}

kvt_result kvt_send(kvt *k, const kvt_job *job) {
    CHECK(!k->posted);
    CHECK_LE(job->pages_count, KVT_JOB_PAGES);
    return k->failed ? KVT_FAILED : k->transport->send(k, job);
}

bool kvt_sent(kvt *k, uint32_t *sequence) {
    return k->transport->sent(k, sequence);
}

kvt_result kvt_post(kvt *k, const kvt_job *job) {
    CHECK(k->posted);
    CHECK_LE(job->pages_count, KVT_JOB_PAGES);
    if (k->failed || k->posted_count == KVT_JOBS_MAX) {
        k->failed = true;
        return KVT_FAILED;
    }
    k->posted[(k->posted_first + k->posted_count) % KVT_JOBS_MAX] = *job;
    k->posted_count++;
    return KVT_DONE;
}

kvt_result kvt_receive(kvt *k, kvt_arrival *out) {
    CHECK(k->posted);
    if (k->failed) {
        return KVT_FAILED;
    }
    if (k->posted_count == 0) {
        if (k->transport->idle) {
            k->transport->idle(k);
        }
        return k->failed ? KVT_FAILED : KVT_AGAIN;
    }
    const kvt_job *job = &k->posted[k->posted_first];
    kvt_result r = stage_fits(k, job) ? k->transport->receive(k, job, out) : KVT_FAILED;
    if (r == KVT_DONE && k->device && out->outcome == KVT_ARRIVED &&
        !k->device->store(k->pool.context, job, k->stage)) {
        r = KVT_FAILED;
    }
    if (r == KVT_DONE) {
        out->sequence = job->sequence;
        k->posted_first = (k->posted_first + 1) % KVT_JOBS_MAX;
        k->posted_count--;
    } else if (r == KVT_FAILED) {
        k->failed = true;
    }
    return r;
}

int kvt_event_fd(const kvt *k) {
    return k->transport->event_fd(k);
}

void kvt_event_clear(kvt *k) {
    k->transport->event_clear(k);
}
