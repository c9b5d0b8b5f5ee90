/* Preloaded, it lets a program fork that may not say so itself, for `fork` is
 * unsafe in Rust: getppid() forks. The child gets 0 of it, the parent the
 * child's process number. */
#include <unistd.h>

pid_t getppid(void) { return fork(); }
