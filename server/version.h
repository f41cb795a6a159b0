/* version.h -- the version of weir.
 *
 * Purpose    One place for the number that /version and --version tell.
 * Ownership  None.
 * Threads    Constant.
 * Limits     None.
 */
#ifndef SERVER_VERSION_H
#define SERVER_VERSION_H

#define VERSION_TEXT "0.1.0"

#endif
