#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Server, virtual host, <Location>, <Directory>, <Files>, <If>: what an inner section says replaces what an outer one said, and
# nothing else. A handler without an upstream is an error at start-up where that can be seen, and an answer where it cannot.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $t = ChatStream::Test->new(start => 0, modules => [qw(rewrite)], upstreams => [ {}, {} ], server_config => <<'END', config => <<'END2');
ChatStreamEnabled ${STREAMING}
ChatStreamUpstream "${UPSTREAM}/sse?script=who"
ChatStreamUpstreamHeader X-From server
ChatStreamUpstreamHeader X-Server yes
ChatStreamMaxMessage 10
ChatStreamHeartbeat 20
<Directory "${HTDOCS}/served">
    SetHandler chatstream
    ChatStreamMaxMessage 30
    <Files "off*">
        ChatStreamEnabled Off
    </Files>
    <Files "other">
        ChatStreamUpstream "${UPSTREAM2}/sse?script=who"
    </Files>
</Directory>
END
ChatStreamMaxMessage 20
<Location "/inherits">
    SetHandler chatstream
</Location>
<Location "/inherits/more">
    ChatStreamMaxMessage 40
    ChatStreamUpstreamHeader X-From location
</Location>
<Location "/other">
    SetHandler chatstream
    ChatStreamUpstream "${UPSTREAM2}/sse?script=who"
</Location>
<Location "/off">
    SetHandler chatstream
    ChatStreamEnabled Off
</Location>
<LocationMatch "^/match/\d+$">
    SetHandler chatstream
</LocationMatch>
<Location "/if">
    SetHandler chatstream
    <If "%{HTTP:X-Tier} == 'gold'">
        ChatStreamMaxMessage 50
        ChatStreamUpstream "${UPSTREAM2}/sse?script=who"
    </If>
    <If "%{HTTP:X-Tier} == 'none'">
        ChatStreamEnabled Off
    </If>
</Location>
<If "%{REQUEST_URI} == '/only-if'">
    SetHandler chatstream
</If>
RewriteEngine On
RewriteRule "^/rewritten$" "-" [H=chatstream]
END2
$t->httpd->{defines}{STREAMING} = 'true';
$t->httpd->{defines}{HTDOCS} = $t->dir . '/htdocs';
mkdir $t->dir . '/htdocs/served';
for my $name (qw(page off other)) {
    open my $handle, '>', $t->dir . "/htdocs/served/$name" or die;
    close $handle;
}
$t->start;
$_->script(who => 'token ' . $_->port . "\ndone\n") for $t->upstream(1), $t->upstream(2);

sub outcome
{
    my ($path, $length, %options) = @_;
    my $answer = $t->request("$path?message=" . 'x' x $length, %options);
    return $answer->status == 200 ? $answer->answer : $answer->json->{code};
}
my ($one, $two) = map { $_->port } $t->upstream(1), $t->upstream(2);
sub is_outcome
{
    my ($path, $length, $wanted, @options) = @_;
    is outcome($path, $length, @options), $wanted, "$path, $length bytes @{[ map { ref $_ ? values %$_ : () } @options ]}";
    return;
}

is_outcome('/inherits', 20, $one);
is_outcome('/inherits', 21, 'too_large');
is_outcome('/inherits/more', 40, $one);
is_outcome('/inherits/more', 41, 'too_large');
my ($request) = reverse $t->upstream(1)->requests;
is $request->{headers}{'x-from'}, 'location', 'headers of a section replace';
ok !exists $request->{headers}{'x-server'}, 'all those of the outer one';
is_outcome('/other', 20, $two);
is_outcome('/other', 21, 'too_large');
is_outcome('/off', 5, 'streaming_disabled');
is_outcome('/match/7', 20, $one);
is $t->request('/match/x?message=hi')->status, 404, '<LocationMatch> matches no more than it says';
# <Directory> is below the server's, and comes before any <Location>.
is_outcome('/served/page', 30, $one);
is_outcome('/served/page', 31, 'too_large');
is_outcome('/served/off', 5, 'streaming_disabled');
is_outcome('/served/other', 30, $two);
is_outcome('/if', 20, $one);
is_outcome('/if', 21, 'too_large');
is_outcome('/if', 50, $two, headers => { 'X-Tier' => 'gold' });
is_outcome('/if', 51, 'too_large', headers => { 'X-Tier' => 'gold' });
is_outcome('/if', 5, 'streaming_disabled', headers => { 'X-Tier' => 'none' });
is_outcome('/only-if', 20, $one);
is_outcome('/rewritten', 20, $one);
$t->check;

# Nobody says which upstream, and no SetHandler told so at the start.
my $bare = ChatStream::Test->new(modules => [qw(rewrite)], upstreams => [], config => <<'END');
ChatStreamEnabled On
RewriteEngine On
RewriteRule "^/(stream|job)$" "-" [H=chatstream]
RewriteRule "^/document$" "-" [H=chatstream-complete]
END
$bare->expect_log(qr/there is no ChatStreamUpstream here/);
is $bare->request("/$_?message=hi")->status, 500, "/$_ without an upstream: an answer, not a crash" for qw(stream document);
is $bare->request('/stream?message=hi', headers => { 'Last-Event-ID' => '01890000-0000-7000-8000-000000000000:1' })->status, 500,
    'so is a resume';
ok $bare->request('/-/health')->status == 200, 'and it goes on';
$bare->check;

# <If> and <Files> around a handler are seen at the start, too.
my $nested = ChatStream::Test->new(start => 0, upstreams => []);
for my $section ('<If "true">', '<Files "x">', '<Location "/a"><If "true">') {
    my $text = $section =~ s/></>\n</r;
    my $end = join "\n", map { "</$_>" } reverse $section =~ /<(\w+)/g;
    $nested->httpd->{config} = "$text\nSetHandler chatstream\n$end\n";
    my ($valid, $said) = $nested->httpd->check_config;
    ok !$valid, "$section: refused without an upstream";
    like $said, qr/line \d+.*SetHandler chatstream needs a ChatStreamUpstream/, "$section: and says so";
    $nested->httpd->{config} = "$text\nSetHandler chatstream\nChatStreamUpstream http://127.0.0.1:9/\n$end\n";
    ok +($nested->httpd->check_config)[0], "$section: accepted with one";
}
done_testing;
