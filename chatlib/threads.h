// Threads that stay from one step to the next: to start one takes a tenth of a step.
//
// Nobody waits for a thread that has not begun. Where other programs keep it from its core, the
// caller does its part as well.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

struct Job {
    std::function<void(int64_t)> work;
    int64_t parts;
    std::atomic<int64_t> next{0}, done{0};

    void help() {
        for (int64_t part; (part = next++) < parts; done++) work(part);
    }
};

struct Helpers {
    std::mutex mutex;
    std::condition_variable news;
    std::shared_ptr<Job> job;      // the newest
    std::atomic<int64_t> jobs{0};  // how many there have been
    int64_t threads = 0;

    void run() {
        for (int64_t seen = 0;;) {
            for (int i = 0; i < 1000 && jobs == seen; i++) std::this_thread::yield();
            std::unique_lock lock(mutex);  // nothing for a while: sleep
            news.wait(lock, [&] { return jobs != seen; });
            seen = jobs;
            auto mine = job;
            lock.unlock();
            mine->help();
        }
    }
};

// Calls work(0) .. work(parts - 1), each once, on up to `threads` threads, this one among them.
inline void in_parallel(int64_t parts, int64_t threads, std::function<void(int64_t)> work) {
    static Helpers &helpers = *new Helpers;  // never deleted, for its threads never end
    auto job = std::make_shared<Job>();
    job->work = work, job->parts = parts;
    if (threads > 1) {
        std::lock_guard lock(helpers.mutex);
        for (; helpers.threads < threads - 1; helpers.threads++)
            std::thread(&Helpers::run, &helpers).detach();
        helpers.job = job, helpers.jobs++;
        helpers.news.notify_all();
    }
    job->help();
    while (job->done < parts) std::this_thread::yield();
}
