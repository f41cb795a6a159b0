/* kernels_main.cpp -- the shipped kernels on the emulated device, each against what it must give.
 *
 *     emu_kernels_test [full | quick]    prints `ok NAME` or `not ok NAME - why` a case
 */
#include "tests/emu/kernels/kernelcase.hpp"

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        kernelcase::full = kernelcase::full || strcmp(argv[i], "full") == 0;
        kernelcase::quick = kernelcase::quick || strcmp(argv[i], "quick") == 0;
    }
    attentioncase_run();
    productcase_run();
    samplecase_run();
    fusedcase_run();
    return kernelcase::failed ? 1 : 0;
}
