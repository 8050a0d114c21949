/* tests/gpu/emu/emu_device.cc - engine/gpu.h over host memory and one thread per device. */
#include "tests/gpu/emu/emu.hh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

extern "C" {
#include "base/clock.h"
}
#include "engine/kernels/gpu_kernel.cuh"
#include "tests/gpu/emu/gpu_emu.h"

namespace
{

using work = std::function<void()>;

/* An event counts its records and how far the streams have passed them; work in flight outlives the event. */
struct marks {
    uint64_t recorded = 0, passed = 0;
    uint64_t passed_ns = 0;
};

struct piece {
    work run; /* may be empty: only a wait or a mark */
    std::shared_ptr<marks> await, pass;
    uint64_t await_mark = 0, pass_mark = 0;
};

std::mutex lock; /* over all below: streams, events, devices */
std::condition_variable changed;
uint32_t n_devices = 2;
uint64_t device_bytes = 1ull << 30;
std::atomic<uint32_t> fail_after, hang_after; /* may be set by a signal handler */
bool abandoned;
char trouble[256];

bool broken()
{
    return trouble[0] != '\0';
}

} // namespace

struct CUgraphExec_st {
    std::vector<work> steps;
};

struct CUevent_st {
    std::shared_ptr<marks> at = std::make_shared<marks>();
};

struct CUstream_st {
    struct gpu *owner;
    std::deque<piece> queue;
    bool running = false, high = false;
    CUgraphExec_st *capture = nullptr;
};

struct gpu {
    struct gpu_info info;
    std::thread thread;
    bool closing = false, hangs = false;
    std::vector<CUstream_st *> streams;
    std::map<void *, std::unique_ptr<emu::guarded>> device, host;
    std::map<void *, size_t> sizes;
    uint64_t used = 0;
    uint64_t random;
    CUstream_st zero; /* the stream named NULL */
};

static thread_local struct gpu *current;

namespace emu
{

guarded::guarded(size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (len + page - 1) / page * page;

    mapped = room + page;
    base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mprotect((unsigned char *)base + room, page, PROT_NONE) != 0) {
        fprintf(stderr, "emulated GPU: no memory\n");
        abort();
    }
    bytes = (unsigned char *)base + (room - len) / 128 * 128;
}

guarded::~guarded()
{
    munmap(base, mapped);
}

void guarded::access(bool allowed)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (mapped > page)
        mprotect(base, mapped - page, allowed ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void set_trouble(const char *why)
{
    if (broken())
        return;
    snprintf(trouble, sizeof(trouble), "%s", why);
}

void break_device(const char *why)
{
    std::lock_guard<std::mutex> hold(lock);
    set_trouble(why);
    changed.notify_all();
}

static CUstream_st *stream_of(gpu_stream s)
{
    return s != nullptr ? s : current != nullptr ? &current->zero : nullptr;
}

static enum err push(gpu_stream named, piece p)
{
    std::lock_guard<std::mutex> hold(lock);
    CUstream_st *s = stream_of(named);

    if (s == nullptr || broken())
        return ERR_DEVICE;
    if (s->capture != nullptr) {
        if (p.run)
            s->capture->steps.push_back(std::move(p.run));
        return ERR_OK;
    }
    s->queue.push_back(std::move(p));
    changed.notify_all();
    return ERR_OK;
}

enum err enqueue(gpu_stream s, std::function<void()> fn)
{
    piece p;

    p.run = std::move(fn);
    return push(s, std::move(p));
}

enum err launch(struct gpu_dims d, gpu_stream s, const char *name, bool early,
                std::function<void()> fn)
{
    if (d.x == 0 || d.y == 0 || d.z == 0 || d.threads == 0 || d.threads > 1024)
        return ERR_INVALID;
    if (d.threads % 32 != 0 || d.y > 65535 || d.z > 65535 || d.shared > 227 * 1024)
        fault("a launch outside the limits of the device", name);
    return enqueue(s, [=] { run_grid(d, name, early, fn); });
}

} // namespace emu

/* ---- the device's thread ---- */

namespace
{

bool may_run(const CUstream_st *s)
{
    if (s->queue.empty() || s->running)
        return false;
    const piece &p = s->queue.front();
    return p.await == nullptr || p.await->passed >= p.await_mark;
}

CUstream_st *draw(struct gpu *g)
{
    std::vector<CUstream_st *> ready;

    for (CUstream_st *s : g->streams) {
        if (may_run(s))
            ready.push_back(s);
    }
    if (ready.empty())
        return nullptr;
    g->random = g->random * 6364136223846793005ull + 1442695040888963407ull;
    return ready[(g->random >> 33) % ready.size()];
}

bool strikes(std::atomic<uint32_t> &counter)
{
    return counter > 0 && --counter == 0;
}

void run_device(struct gpu *g)
{
    std::unique_lock<std::mutex> hold(lock);

    current = g;
    for (;;) {
        CUstream_st *s;
        changed.wait(hold,
                     [&] { return g->closing || (!g->hangs && !broken() && draw(g) != nullptr); });
        if (broken() || g->hangs || (s = draw(g)) == nullptr) {
            if (g->closing)
                return;
            continue;
        }
        piece p = std::move(s->queue.front());
        s->queue.pop_front();
        if (p.run) {
            g->hangs = strikes(hang_after);
            if (strikes(fail_after))
                emu::set_trouble("an illegal memory access was encountered (emulated)");
            if (broken() || g->hangs) {
                changed.notify_all();
                continue;
            }
            s->running = true;
            for (auto &m : g->device)
                m.second->access(true);
            hold.unlock();
            p.run();
            hold.lock();
            for (auto &m : g->device)
                m.second->access(false);
            s->running = false;
        }
        if (p.pass != nullptr && p.pass->passed < p.pass_mark) {
            p.pass->passed = p.pass_mark;
            p.pass->passed_ns = clock_now_ns();
        }
        changed.notify_all();
    }
}

enum err wait_until(uint64_t deadline_ns, const std::function<bool()> &done)
{
    std::unique_lock<std::mutex> hold(lock);

    while (!done() && !broken()) {
        uint64_t t = clock_now_ns();
        if (t >= deadline_ns)
            return ERR_TIMEOUT;
        changed.wait_for(hold,
                         std::chrono::nanoseconds(std::min<uint64_t>(deadline_ns - t, 50000000)));
    }
    return done() && !broken() ? ERR_OK : ERR_DEVICE;
}

} // namespace

/* ---- for tests ---- */

void gpu_emu_devices(uint32_t n)
{
    n_devices = n;
}

void gpu_emu_memory(uint64_t bytes)
{
    device_bytes = bytes;
}

void gpu_emu_fail_after(uint32_t n)
{
    fail_after = n;
}

void gpu_emu_hang_after(uint32_t n)
{
    hang_after = n;
}

uint32_t gpu_emu_streams(struct gpu *g, bool high)
{
    std::lock_guard<std::mutex> hold(lock);

    return (uint32_t)std::count_if(g->streams.begin(), g->streams.end(),
                                   [=](const CUstream_st *s) { return s->high == high; });
}

void gpu_emu_reset(void)
{
    std::lock_guard<std::mutex> hold(lock);
    n_devices = 2;
    device_bytes = 1ull << 30;
    fail_after = hang_after = 0;
    abandoned = false;
    trouble[0] = '\0';
}

/* ---- engine/gpu.h ---- */

uint32_t gpu_count(struct err_msg *msg)
{
    if (n_devices == 0)
        (void)err_set(msg, ERR_NOT_FOUND, "gpu: no device (emulated)");
    return n_devices;
}

enum err gpu_open(uint32_t device, struct err_msg *msg, struct gpu **out)
{
    if (device >= n_devices)
        return err_set(msg, ERR_NOT_FOUND, "gpu: no device %u, there are %u (emulated)", device,
                       n_devices);
    struct gpu *g = new struct gpu();
    g->info = {};
    snprintf(g->info.name, sizeof(g->info.name), "emulated GPU");
    snprintf(g->info.bus_id, sizeof(g->info.bus_id), "0000:%02u:00.0", device);
    g->info.major = 9;
    g->info.n_multiprocessors = 4;
    g->info.total_bytes = device_bytes;
    g->info.l2_bytes = 1 << 20;
    g->info.shared_bytes = 227 * 1024;
    g->random = (uint64_t)getpid() * 2654435761u + device;
    g->zero.owner = g;
    g->streams.push_back(&g->zero);
    g->thread = std::thread(run_device, g);
    current = g;
    *out = g;
    return ERR_OK;
}

void gpu_close(struct gpu *g)
{
    if (g == nullptr)
        return;
    {
        std::lock_guard<std::mutex> hold(lock);
        g->closing = true;
        changed.notify_all();
    }
    g->thread.join();
    if (!g->device.empty() || !g->host.empty())
        fprintf(stderr, "emulated GPU: %zu device and %zu host allocations were not returned\n",
                g->device.size(), g->host.size());
    if (current == g)
        current = nullptr;
    delete g;
}

const struct gpu_info *gpu_info(const struct gpu *g)
{
    return &g->info;
}

enum err gpu_memory(struct gpu *g, uint64_t *free_bytes, uint64_t *total_bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    *free_bytes = device_bytes - g->used;
    *total_bytes = device_bytes;
    return ERR_OK;
}

enum err gpu_use(struct gpu *g)
{
    current = g;
    return ERR_OK;
}

const char *gpu_trouble(void)
{
    return trouble;
}

enum err gpu_fail(const char *call, const char *text)
{
    emu::break_device((std::string(call) + ": " + text).c_str());
    return ERR_DEVICE;
}

void gpu_abandon(void)
{
    std::lock_guard<std::mutex> hold(lock);
    abandoned = true;
}

bool gpu_lost(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return abandoned || broken();
}

/* The runtime would wait for the work that does not end. */
static void check_free(const struct gpu *g, const void *p)
{
    if (g->hangs && !abandoned && !broken())
        emu::fault("a free on a device that hangs, which has not been abandoned", p);
}

enum err gpu_alloc(struct gpu *g, size_t bytes, void **out)
{
    std::lock_guard<std::mutex> hold(lock);
    size_t len = (bytes + 255) / 256 * 256;

    if (broken())
        return ERR_DEVICE;
    if (len > device_bytes - g->used)
        return ERR_NOMEM;
    auto m = std::make_unique<emu::guarded>(len);
    memset(m->bytes, 0xff, len);
    *out = m->bytes;
    m->access(false);
    g->used += len;
    g->sizes[*out] = len;
    g->device[*out] = std::move(m);
    return ERR_OK;
}

void gpu_free(struct gpu *g, void *p)
{
    std::unique_lock<std::mutex> hold(lock);

    if (p == nullptr)
        return;
    changed.wait(hold, [&] {
        bool busy = false;
        for (CUstream_st *s : g->streams)
            busy = busy || s->running || (!s->queue.empty() && !broken() && !g->hangs);
        return !busy;
    });
    check_free(g, p);
    if (g->device.count(p) == 0)
        emu::fault("a free of memory that was not allocated", p);
    g->used -= g->sizes[p];
    g->sizes.erase(p);
    g->device.erase(p);
}

enum err gpu_host_alloc(struct gpu *g, size_t bytes, void **out)
{
    std::lock_guard<std::mutex> hold(lock);
    auto m = std::make_unique<emu::guarded>(bytes);

    memset(m->bytes, 0xff, bytes);
    *out = m->bytes;
    g->host[*out] = std::move(m);
    return ERR_OK;
}

void gpu_host_free(struct gpu *g, void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    if (p != nullptr) {
        check_free(g, p);
        g->host.erase(p);
    }
}

enum err gpu_host_register(struct gpu *g, void *p, size_t bytes)
{
    (void)g, (void)p, (void)bytes;
    return broken() ? ERR_DEVICE : ERR_OK;
}

void gpu_host_unregister(struct gpu *g, void *p)
{
    (void)g, (void)p;
}

enum err gpu_copy(void *dst, const void *src, size_t bytes, enum gpu_copy_kind kind, gpu_stream s)
{
    (void)kind;
    return bytes == 0 ? ERR_OK : emu::enqueue(s, [=] { memcpy(dst, src, bytes); });
}

enum err gpu_copy_2d(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                     size_t height, enum gpu_copy_kind kind, gpu_stream s)
{
    (void)kind;
    return emu::enqueue(s, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
    });
}

enum err gpu_fill(void *dst, uint8_t byte, size_t bytes, gpu_stream s)
{
    return emu::enqueue(s, [=] { memset(dst, byte, bytes); });
}

enum err gpu_stream_create(struct gpu *g, bool high, gpu_stream *out)
{
    std::lock_guard<std::mutex> hold(lock);

    if (broken())
        return ERR_DEVICE;
    *out = new CUstream_st();
    (*out)->owner = g;
    (*out)->high = high;
    g->streams.push_back(*out);
    return ERR_OK;
}

void gpu_stream_destroy(gpu_stream s)
{
    if (s == nullptr)
        return;
    struct gpu *g = s->owner;
    std::unique_lock<std::mutex> hold(lock);
    changed.wait(hold, [&] { return !s->running && (s->queue.empty() || broken() || g->hangs); });
    for (size_t i = 0; i < g->streams.size(); i++) {
        if (g->streams[i] == s)
            g->streams.erase(g->streams.begin() + (long)i);
    }
    delete s;
}

enum err gpu_stream_call(gpu_stream s, void (*fn)(void *arg), void *arg)
{
    return emu::enqueue(s, [=] { fn(arg); });
}

enum err gpu_stream_wait(gpu_stream named, uint64_t deadline_ns)
{
    CUstream_st *s = emu::stream_of(named);

    return wait_until(deadline_ns, [=] { return s->queue.empty() && !s->running; });
}

enum err gpu_event_create(struct gpu *g, bool timed, gpu_event *out)
{
    (void)g, (void)timed;
    *out = new CUevent_st();
    return ERR_OK;
}

void gpu_event_destroy(gpu_event e)
{
    delete e;
}

enum err gpu_event_record(gpu_event e, gpu_stream s)
{
    piece p;
    {
        std::lock_guard<std::mutex> hold(lock);
        CUstream_st *on = emu::stream_of(s);
        if (on != nullptr && on->capture != nullptr)
            return ERR_OK; /* a graph's steps run in the order of their capture */
        p.pass = e->at;
        p.pass_mark = ++e->at->recorded;
    }
    return emu::push(s, std::move(p));
}

enum err gpu_stream_await(gpu_stream s, gpu_event e)
{
    piece p;
    {
        std::lock_guard<std::mutex> hold(lock);
        CUstream_st *on = emu::stream_of(s);
        if (on != nullptr && on->capture != nullptr)
            return ERR_OK;
        p.await = e->at;
        p.await_mark = e->at->recorded;
    }
    return emu::push(s, std::move(p));
}

enum err gpu_event_query(gpu_event e)
{
    std::lock_guard<std::mutex> hold(lock);
    return broken() ? ERR_DEVICE : e->at->passed >= e->at->recorded ? ERR_OK : ERR_TIMEOUT;
}

enum err gpu_event_wait(gpu_event e, uint64_t deadline_ns)
{
    return wait_until(deadline_ns, [=] { return e->at->passed >= e->at->recorded; });
}

enum err gpu_event_ms(gpu_event from, gpu_event to, float *ms)
{
    std::lock_guard<std::mutex> hold(lock);
    *ms = (float)(int64_t)(to->at->passed_ns - from->at->passed_ns) * 1e-6f;
    return ERR_OK;
}

enum err gpu_capture_begin(gpu_stream s)
{
    std::lock_guard<std::mutex> hold(lock);
    CUstream_st *on = emu::stream_of(s);

    if (broken() || on == nullptr || on->capture != nullptr)
        return ERR_DEVICE;
    on->capture = new CUgraphExec_st();
    return ERR_OK;
}

enum err gpu_capture_end(gpu_stream s, gpu_graph *out)
{
    std::lock_guard<std::mutex> hold(lock);
    CUstream_st *on = emu::stream_of(s);

    if (on == nullptr || on->capture == nullptr)
        return ERR_DEVICE;
    *out = on->capture;
    on->capture = nullptr;
    return ERR_OK;
}

enum err gpu_graph_launch(gpu_graph graph, gpu_stream s)
{
    return emu::enqueue(s, [=] {
        for (auto &step : graph->steps)
            step();
    });
}

void gpu_graph_destroy(gpu_graph graph)
{
    delete graph;
}
