#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Wrong configurations stop httpd -t with a message that names the directive, the value and what is allowed; right ones do not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $t = ChatStream::Test->new(start => 0, upstreams => []);
my $httpd = $t->httpd;
my $dir = $t->dir;

sub write_file
{
    my ($name, $text) = @_;
    open my $handle, '>:raw', "$dir/$name" or die "$name: $!";
    print $handle $text;
    close $handle;
    return "$dir/$name";
}

my $good = write_file('good.json', '{"q":"{message}"}');
my $broken = write_file('broken.json', "{\n  \"q\": }");
my $scalar = write_file('scalar.json', '"{message}"');
my $up = 'http://127.0.0.1:9/sse';

# (server level, virtual host) -> valid, text
sub check
{
    my ($server, $vhost) = @_;
    @$httpd{qw(server_config config)} = ($server, $vhost);
    my ($valid, $said) = $httpd->check_config;
    return ($valid, $said);
}

sub location { return qq(<Location "/chat">\nSetHandler chatstream\nChatStreamUpstream $up\n$_[0]\n</Location>\n) }

sub refused
{
    my ($name, $server, $vhost, @patterns) = @_;
    my ($valid, $said) = check($server, $vhost);
    ok !$valid, "$name: refused";
    like $said, $_, "$name: says $_" for @patterns;
    unlike $said, qr/Segmentation|AH00558/, "$name: nothing else";
    return;
}

sub accepted
{
    my ($name, $server, $vhost) = @_;
    my ($valid, $said) = check($server, $vhost);
    ok $valid, "$name: accepted" or diag $said;
    unlike $said, qr/:warn\]|:error\]|:emerg\]/, "$name: without a warning";
    return;
}

# ---- values: each directive, a wrong value, and what the message must say beside both ------------------------------------

my $time = qr/is not a time from \S+ to \S+ \(seconds, or a number with ms, s, m, h\)/;
my $size = qr/is not a size from \S+ to \S+ \(bytes, or a number with k, m, g\)/;
my @wrong = (
    (map { [ 'ChatStreamEnabled', $_, qr/On, Off, true, false, 1, 0/ ] } 'maybe', '2', 'yes'),
    (map { my $directive = $_; map { [ $directive, $_, $time ] } '0', '-1', 'soon', '5x', '2d', '1e3', '0x10', '1..5', 'nan', '99999999' }
        qw(ChatStreamHeartbeat ChatStreamCommitAfter ChatStreamTimeout)),
    (map { my $option = $_; map { [ 'ChatStreamTimeout', "60 $option=$_", $time ] } '0', 'x' } qw(headers first-token idle)),
    [ 'ChatStreamTimeout', '60 total=3', qr/unknown option 'total=3'.*headers=.*first-token=.*idle=/ ],
    [ 'ChatStreamTimeout', '60 70', qr/unknown option '70'/ ],
    [ 'ChatStreamTimeout', '', qr/missing/ ],
    (map { my $directive = $_; map { [ $directive, $_, $size ] } '0', '-1', 'big', '5x', '1kk', '1.5k', '99999999999999999999', '1g' }
        qw(ChatStreamMaxMessage ChatStreamMaxEvent ChatStreamMaxAnswer)),
    (map { [ 'ChatStreamReplay', $_, $size ] } '1', '4095', 'x', '300g'),
    (map { [ 'ChatStreamReplay', "256k $_", $time ] } 'x', '-1', '2d'),
    [ 'ChatStreamOnDisconnect', 'stay', qr/'abort \[GRACE\]'.*'detach'/ ],
    [ 'ChatStreamOnDisconnect', 'detach 5', qr/'abort \[GRACE\]'.*'detach'/ ],
    [ 'ChatStreamOnDisconnect', 'abort x', $time ],
    [ 'ChatStreamFormat', 'xml', qr/known are: .*native.*raw|known are: .*raw.*native/ ],
    # httpd takes an empty word for none.
    (map { [ $_, '""', qr/takes one argument/ ] } qw(ChatStreamModel ChatStreamProfile ChatStreamHeartbeat ChatStreamMaxEvent)),
    [ 'ChatStreamRequestTemplate', '/nowhere/t.json', qr/cannot read .*No such file/ ],
    [ 'ChatStreamRequestTemplate', $dir, qr/\Q$dir\E/ ],
    [ 'ChatStreamRequestTemplate', $broken, qr/not JSON.*line 2/ ],
    [ 'ChatStreamRequestTemplate', $scalar, qr/not a JSON object/ ],
    [ 'ChatStreamUpstreamHeader', '"X Y" v', qr/'X Y' is not a header name/ ],
    [ 'ChatStreamUpstreamHeader', '"X-Y:" v', qr/'X-Y:' is not a header name/ ],
    [ 'ChatStreamUpstreamHeader', '"X-Y"', qr/takes two arguments/ ],
    (map { [ 'ChatStreamUpstream', $_, qr/URL is missing/ ] } '', '""'),
    (map { [ 'ChatStreamUpstream', $_, qr/http:/ ] } 'localhost', 'ftp://h/', 'http://', 'file:///etc/passwd', 'http://h:99999/', '"http://a b/"'),
    [ 'ChatStreamUpstream', 'unix:/run/x.sock', qr/unix:.*\|http/ ],
    [ 'ChatStreamUpstream', 'unix:x.sock|http://h/', qr/absolute/ ],
    [ 'ChatStreamUpstream', "unix:/" . 'x' x 108 . "|http://h/", qr/107/ ],
    [ 'ChatStreamUpstream', "$up dialect=klingon", qr/unknown dialect 'klingon'; known are: .*openai.*sse.*text/ ],
    [ 'ChatStreamUpstream', "\"$up\" dialect=", qr/unknown dialect ''; known are/ ],
    [ 'ChatStreamUpstream', "$up speed=9", qr/unknown option 'speed=9'; known are: dialect=NAME, connect=SECONDS, ca=FILE, backup/ ],
    [ 'ChatStreamUpstream', "$up connect=0", $time ],
    [ 'ChatStreamUpstream', "$up connect=x", $time ],
    [ 'ChatStreamUpstream', "$up ca=/nowhere/ca.pem", qr/cannot read .*No such file/ ],
);
for my $case (@wrong) {
    my ($directive, $value, $allowed) = @$case;
    # The value, or that word of it which is wrong.
    my ($shown) = $value =~ /"/ ? () : reverse split / /, $value =~ s/ \S+=/ /r;
    refused("$directive $value", '', location("$directive $value"), qr/$directive/, $allowed,
        length($shown // '') ? qr/\Q$shown\E/ : ());
}
for my $case (
    (map { [ 'ChatStreamMaxStreams', $_, qr/is not a number from 1 to 1000000/ ] } '0', '-1', 'x', '1.5', '1000001'),
    (map { [ 'ChatStreamArena', $_, $size ] } '1', '1k', 'x', '2048g'),
) {
    my ($directive, $value, $allowed) = @$case;
    refused("$directive $value", "$directive $value", '', qr/$directive/, $allowed, qr/\Q@{[ $value =~ s{"}{}gr ]}\E/);
}

# ---- what only the whole can say -----------------------------------------------------------------------------------------

my $password = '<Location /chat>' . "\nChatStreamUpstream http://user:SECRET-password\@h/x?key=SECRET-query\n</Location>\n";
refused('credentials in the URL', '', $password, qr/ChatStreamUpstream/, qr/no user or password in the URL/, qr{http://h}, qr/^(?!.*SECRET)/s);

for my $handler (qw(chatstream chatstream-complete)) {
    for my $section ('<Location "/chat">', '<LocationMatch "^/chat">', qq(<Directory "$dir/htdocs">)) {
        my ($end) = $section =~ /^<(\w+)/;
        refused("$handler without an upstream in $section", '', "$section\nSetHandler $handler\n</$end>\n",
            qr/SetHandler $handler needs a ChatStreamUpstream/, $section =~ /Match/ ? () : qr{/chat|htdocs});
    }
    refused("$handler without an upstream in the virtual host", '', "SetHandler $handler\n", qr/SetHandler $handler needs a ChatStreamUpstream/);
    refused("$handler without an upstream in the server", "SetHandler $handler\n", '', qr/SetHandler $handler needs a ChatStreamUpstream/);
}
accepted('the health handler needs none', '', "<Location /h>\nSetHandler chatstream-health\n</Location>\n");
accepted('the upstream of the virtual host', '', "ChatStreamUpstream $up\n<Location /chat>\nSetHandler chatstream\n</Location>\n");
accepted('the upstream of the server', "ChatStreamUpstream $up\n", "<Location /chat>\nSetHandler chatstream\n</Location>\n");

refused('only backups', '', "<Location /chat>\nSetHandler chatstream\nChatStreamUpstream $up backup\nChatStreamUpstream $up backup\n</Location>\n",
    qr{/chat: ChatStreamUpstream: every one is a backup});
refused('openai without a model', '', location("ChatStreamUpstream $up dialect=openai"), qr{/chat: ChatStreamUpstream \Q$up\E}, qr/ChatStreamModel or ChatStreamRequestTemplate/);
accepted('openai with a model', "ChatStreamModel m\n", location("ChatStreamUpstream $up dialect=openai"));
accepted('openai with a template', '', location("ChatStreamUpstream $up dialect=openai\nChatStreamRequestTemplate $good"));
refused('an arena too small', "ChatStreamArena 1m\nChatStreamMaxStreams 4096\n", '', qr/ChatStreamArena/, qr/1048576|1m/, qr/ChatStreamMaxStreams 4096/,
    qr/allowed is \d+k or more/);
{
    # What the message says is enough is enough, and less is not.
    my ($needed) = (check("ChatStreamArena 1m\nChatStreamMaxStreams 4096\n", ''))[1] =~ /allowed is (\d+)k/;
    accepted('the arena that was asked for', "ChatStreamArena ${needed}k\n", '');
    refused('one page less', "ChatStreamArena @{[ $needed - 5 ]}k\n", '', qr/ChatStreamArena/);
}
refused('events larger than the replay can hold', '', location("ChatStreamReplay 4k\nChatStreamMaxEvent 1m"), qr/ChatStreamMaxEvent/, qr/ChatStreamReplay/, qr/1048576|1m/,
    qr/allowed/);
for my $line ('ChatStreamMaxStreams 10', 'ChatStreamArena 64m') {
    my ($name) = split / /, $line;
    refused("$line in a location", '', location($line), qr/$name not allowed in <Location> context/);
    refused("$line in a virtual host", '', $line, qr/$name.*<VirtualHost>/);
}
refused('an upstream in .htaccess context is unknown', '', location('ChatStreamUpstreams http://h/'), qr/Invalid command 'ChatStreamUpstreams'/);

# ---- what is right -------------------------------------------------------------------------------------------------------

accepted("ChatStreamEnabled $_", '', location("ChatStreamEnabled $_")) for qw(On off TRUE False 1 0);
accepted("ChatStreamHeartbeat $_", '', location("ChatStreamHeartbeat $_")) for qw(1 0.5 250ms 15s 5m 5min 1h 1.5s);
accepted('ChatStreamTimeout with all', '', location('ChatStreamTimeout 900 headers=1.5 first-token=2m idle=200ms'));
accepted("ChatStreamOnDisconnect $_", '', location("ChatStreamOnDisconnect $_")) for 'abort', 'abort 0', 'abort 10s', 'detach', 'Detach';
accepted("ChatStreamReplay $_", '', location("ChatStreamReplay $_")) for '64k', '1m 0', '256k 1h';
accepted("an upstream $_", '', location("ChatStreamUpstream $_")) for 'https://h/x?a=b&c=d', 'http://[::1]:9000/', 'http://h',
    'unix:/run/x.sock|http://h/x', "$up connect=0.5 dialect=text backup";
accepted('ChatStreamEnabled ${ENABLE_STREAMING}', "Define ENABLE_STREAMING $_\n", location('ChatStreamEnabled ${ENABLE_STREAMING}')) for qw(true false);
refused('ChatStreamEnabled of what is not defined', '', location('ChatStreamEnabled ${NOT_DEFINED_ANYWHERE}'), qr/ChatStreamEnabled.*NOT_DEFINED_ANYWHERE/);
$httpd->{env}{ENABLE_STREAMING} = 'true';
accepted('ChatStreamEnabled from the environment', '', location('ChatStreamEnabled ${ENABLE_STREAMING}'));
done_testing;
