# SPDX-License-Identifier: Apache-2.0
package ChatStream::Source;

# For the checks that read the project's own source: where it is, its files, and C without comments and strings. A check that
# does not find what it wants to read dies, and so fails: an empty answer would look like "no complaint".

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Find ();

our @EXPORT = qw(source_dir files_in text_of code_of includes_of body_of);

my $source_dir = abs_path(dirname(__FILE__) . '/../../..');
sub source_dir { $source_dir }

# Paths below the source directory, sorted, whose name matches; directories of builds are not looked into.
sub files_in
{
    my ($directory, $pattern) = @_;
    my @found;
    return if !-d "$source_dir/$directory";
    File::Find::find({
        no_chdir => 1,
        preprocess => sub { grep { !/^(?:node_modules|\.libs|\.deps|\.git)$/ } @_ },
        wanted => sub { push @found, substr $_, 1 + length $source_dir if -f && m{$pattern} },
    }, "$source_dir/$directory");
    return sort @found;
}

sub text_of
{
    my ($file) = @_;
    open my $handle, '<', "$source_dir/$file" or die "cannot read $file: $!\n";
    local $/;
    my $text = <$handle>;
    length $text or die "$file is empty\n";
    return $text;
}

# The text with comments blanked out; strings stay.
sub code_of
{
    my ($file) = @_;
    my $text = text_of($file);
    $text =~ s{("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|/\*.*?\*/|//[^\n]*}{ $1 // ' ' }gse;
    return $text;
}

# What a file includes: <x.h> and "x.h" as they stand, with their marks.
sub includes_of
{
    my ($file) = @_;
    return code_of($file) =~ /^[ \t]*#[ \t]*include[ \t]*(<[^>\n]+>|"[^"\n]+")/mg;
}

# What stands between the braces of the function of that name, or undef.
sub body_of
{
    my ($code, $function) = @_;
    return $code =~ /\b\Q$function\E\s*\([^;{}]*\)\s*\{(.*?)^\}/ms ? $1 : undef;
}

1;
