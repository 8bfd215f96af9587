#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every C source and header is in Makefile.am: automake cannot glob, and a forgotten header breaks only `make dist`.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use Test::More;

my $makefile = text_of('Makefile.am');
$makefile =~ s/^#.*$//mg;
my %listed = map { $_ => 1 } $makefile =~ m{(?<!\S)((?:[\w.-]+/)*[\w.-]+)(?!\S)}g;

my @files = (
    'mod_chatstream.c',
    map({ files_in($_, qr/\.[ch]$/) } qw(src include tools bench)),
    map({ files_in($_, qr/\.[ch]$/) } qw(t/unit t/fuzz)),
);
cmp_ok scalar @files, '>', 20, 'found the sources';

my @missing;
for my $file (@files) {
    # The source of a test program is implied by the program's name.
    (my $program = $file) =~ s/\.c$//;
    push @missing, $file if !$listed{$file} && !($file =~ m{^t/} && $listed{$program});
}
ok !@missing, 'every source file is in Makefile.am' or diag map { "not in Makefile.am: $_\n" } @missing;

my @gone = grep { m{/.*\.[ch]$} && !-e source_dir() . "/$_" } sort keys %listed;
ok !@gone, 'every source in Makefile.am exists' or diag map { "listed, but not there: $_\n" } @gone;

# A test that is not executable, or has no shebang, still runs under prove; one without the line does not say what it is.
my @unlicensed = grep { text_of($_) !~ m{^.*SPDX-License-Identifier: Apache-2\.0}m } @files;
ok !@unlicensed, 'every source has its SPDX line' or diag map { "no SPDX line: $_\n" } @unlicensed;

done_testing();
