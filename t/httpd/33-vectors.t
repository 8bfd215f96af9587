#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every case of the shared SSE vectors as what an upstream sends, whole and byte by byte: in format raw the client reads the
# same events, in format native their data is the answer's text.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Encode qw(decode encode);
use MIME::Base64 qw(decode_base64);

my $file = ($ENV{CHATSTREAM_VECTORS} // source_dir() . '/../shared/vectors') . '/sse-vectors.json';
BAIL_OUT("no vectors at $file: CHATSTREAM_VECTORS names their directory") if !-e $file;
my @vectors = @{ JSON::PP->new->utf8->decode(slurp($file)) };
cmp_ok scalar @vectors, '>=', 36, 'all the vectors are there';

# The simulator's text, in pieces of this many bytes.
sub script
{
    my ($bytes, $size) = @_;
    my @pieces = $size ? unpack "(a$size)*", $bytes : ();
    @pieces = ($bytes) if !@pieces;
    my $text = "headers\n";
    for my $piece (@pieces) {
        # In bytes: a line of the script has its own limit, too.
        $text .= 'send ' . join('', map { sprintf '\\x%02x', $_ } unpack 'C*', $piece) . "\n" if length $piece;
    }
    return $text;
}

my $t = ChatStream::Test->new(config => join '', "ChatStreamMaxEvent 1m\n", map {
    my ($format, $n) = @$_;
    chat("/$format/$n", "sse?script=v$n", "ChatStreamFormat $format"),
    chat("/$format-split/$n", "sse?script=v$n&split=1", "ChatStreamFormat $format"),
} map { my $n = $_; map { [ $_, $n ] } qw(raw native) } 0 .. $#vectors);
$t->allow_log(qr/stream \S+ ended as error \(upstream_error\): upstream \S+: upstream's answer/);

sub is_events
{
    my ($got, $wanted, $name) = @_;
    my $json = JSON::PP->new->canonical->ascii;
    is $json->encode($got), $json->encode($wanted), $name;
    return;
}

sub text { my ($bytes) = @_; return decode('UTF-8', $bytes, Encode::FB_CROAK) }

for my $n (0 .. $#vectors) {
    my $vector = $vectors[$n];
    my $bytes = decode_base64($vector->{input_b64});
    # The client is told of an answer without any event, or one that ends in mid-event; the standard is silent there.
    my @wanted = map { { event => $_->{event}, data => $_->{data} } } @{ $vector->{events} };
    $t->upstream->script("v$n", script($bytes, 0));
    for my $how ('raw', 'raw-split', length $bytes <= 4096 ? 'pieces' : ()) {
        $t->upstream->script("v$n", script($bytes, 1)) if $how eq 'pieces';
        my @events = $t->request('/' . ($how eq 'raw-split' ? $how : 'raw') . "/$n?message=hi", timeout => 30)->events;
        pop @events if @events > @wanted && $events[-1]{event} eq 'error' && !defined $events[-1]{id};
        my @got = map { { event => text($_->{event}), data => text($_->{data}) } } @events;
        is_events(\@got, \@wanted, "$vector->{name}, $how");
    }
}

# What the data mean to the dialect sse is another matter (t/unit/test_dialect.c); here, where it is plain text, no more and
# no less than the vector's data is the answer.
for my $n (0 .. $#vectors) {
    my $vector = $vectors[$n];
    my @events = @{ $vector->{events} };
    next if grep { $_->{event} !~ /^(?:message|a|x)?$/ || $_->{data} =~ /^\s*[\[{"]/ } @events;
    $t->upstream->script("v$n", script(decode_base64($vector->{input_b64}), 0));
    my $wanted = join '', map { $_->{data} } @events;
    for my $how (qw(native native-split)) {
        my $answer = $t->request("/$how/$n?message=hi", timeout => 30);
        my @got = map { ($_->{json}{type} // '') eq 'token' ? $_->{json}{content} : () } $answer->events;
        is join('', @got), $wanted, "$vector->{name}, $how: the answer's text";
        # An event without data is no token; everything else is one of its own.
        is scalar @got, scalar(grep { length $_->{data} } @events), "$vector->{name}, $how: a token for each" if $wanted ne '';
    }
}
$t->done;
