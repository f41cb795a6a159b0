/* emu_check.hpp -- what the emulator's own tests share: results, and children that may abort.
 *
 * Purpose    `ok NAME` and `not ok NAME - why` lines; a function in a child process.
 * Ownership  None.
 * Threads    emu_check_child only before the first thread starts (ThreadSanitizer).
 * Limits     None.
 */
#ifndef TESTS_EMU_SELFTEST_EMU_CHECK_HPP
#define TESTS_EMU_SELFTEST_EMU_CHECK_HPP

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

inline bool emu_check_failed = false;

inline void emu_check(const std::string &name, bool fine, const std::string &why = "wrong") {
    emu_check_failed = emu_check_failed || !fine;
    printf(fine ? "ok %s\n" : "not ok %s - %s\n", name.c_str(), why.c_str());
    fflush(stdout);
}

struct emu_check_end {
    int status; /* as wait gives it */
    std::string said;
};

/* Starts `what` in a child; its exit status is what it returns. */
inline pid_t emu_check_fork(const std::function<int()> &what, int stderr_fd = -1) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (stderr_fd >= 0) {
            dup2(stderr_fd, STDERR_FILENO);
        }
        alarm(60);
        _exit(what());
    }
    return child;
}

inline emu_check_end emu_check_child(const std::function<int()> &what) {
    int ends[2];
    emu_check_end e = {-1, ""};
    if (pipe(ends) != 0) {
        return e;
    }
    const pid_t child = emu_check_fork(what, ends[1]);
    close(ends[1]);
    char text[512];
    for (ssize_t n; (n = read(ends[0], text, sizeof(text))) > 0;) {
        e.said.append(text, (size_t)n);
    }
    close(ends[0]);
    waitpid(child, &e.status, 0);
    return e;
}

/* `what` must end its process, and say `words`. */
inline void emu_check_dies(const std::string &name, const std::string &words,
                           const std::function<void()> &what) {
    const emu_check_end e = emu_check_child([&] {
        what();
        return 0;
    });
    const bool well = WIFEXITED(e.status) && WEXITSTATUS(e.status) == 0;
    emu_check(name, !well && e.said.find(words) != std::string::npos,
              "not noticed; it said: " + e.said);
}

#endif
